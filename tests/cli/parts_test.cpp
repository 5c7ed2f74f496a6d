// The parts of the command that a process shows only in passing.
#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <vector>

#include "cli/digest.hpp"
#include "cli/parse.hpp"
#include "cli/run_with_progress.hpp"
#include "cli/text.hpp"

namespace isologit::detail::cli {
namespace {

TEST(ParseTemperature, RoundsOnceToF32) {
  EXPECT_EQ(parse_temperature("0.7"), 0.7F);
  // Just above the midpoint of 1 and its successor: rounded to f64 first, it would be the midpoint, and then 1.
  EXPECT_EQ(parse_temperature("1.00000005960464477539062500000000000000001"), 1.00000011920928955078125F);
  EXPECT_EQ(parse_temperature("1.000000059604644775390625"), 1.0F);
  EXPECT_EQ(parse_temperature("1e-45"), std::numeric_limits<float>::denorm_min());
}

TEST(Digest, IsThatOfLittleEndianBytes) {
  // SHA-256 of "abcdefgh", FIPS 180-4.
  const std::vector<float> values = {std::bit_cast<float>(0x64636261U), std::bit_cast<float>(0x68676665U)};
  EXPECT_EQ(f32_digest(values), "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab");
}

TEST(FieldTable, AlignsValues) {
  EXPECT_EQ(field_table({{"a", "1"}, {"longer", "2"}, {"", ""}, {"", "3"}}),
            "  a       1\n  longer  2\n\n          3\n");
}

TEST(ColumnTable, AlignsColumnsWithoutTrailingSpace) {
  EXPECT_EQ(column_table({{"name", "x"}, {"a", "long"}, {"b", ""}}), "  name  x\n  a     long\n  b\n");
}

TEST(DurationText, PicksItsUnit) {
  EXPECT_EQ(duration_text(0.1234), "0.123 s");
  EXPECT_EQ(duration_text(12.34), "12.3 s");
  EXPECT_EQ(duration_text(192.9), "3 min 12 s");
  EXPECT_EQ(duration_text(7320), "2 h 2 min");
}

TEST(BytesText, PicksItsUnit) {
  EXPECT_EQ(bytes_text(999), "999 bytes");
  EXPECT_EQ(bytes_text(1048576), "1.05 MB");
  EXPECT_EQ(bytes_text(1244659712), "1.24 GB");
  EXPECT_EQ(bytes_text(999'900), "1.00 MB");
}

TEST(Progress, WaitsASecondAndIsNotTooChatty) {
  using std::chrono::milliseconds;
  const Progress::Clock::time_point start{};
  Progress progress(true, start);
  EXPECT_EQ(progress.update(0.1, start + milliseconds(999)), "");
  EXPECT_EQ(progress.clear(), "");
  EXPECT_EQ(progress.update(0.25, start + milliseconds(2000)), "\r\x1b[Kscoring   25 %  6.000 s left");
  EXPECT_EQ(progress.update(0.3, start + milliseconds(2100)), "");
  EXPECT_EQ(progress.update(1, start + milliseconds(2300)), "\r\x1b[Kscoring  100 %");
  EXPECT_EQ(progress.clear(), "\r\x1b[K");
  EXPECT_EQ(progress.clear(), "");
  Progress silent(false, start);
  EXPECT_EQ(silent.update(0.5, start + milliseconds(5000)), "");
  EXPECT_EQ(silent.clear(), "");
}

}  // namespace
}  // namespace isologit::detail::cli
