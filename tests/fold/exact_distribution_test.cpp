// The sums of a row in balls, whatever the order of tiles and merges, at every precision.
#include "fold/exact_distribution.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "exact/numbers.hpp"
#include "fold/rows.hpp"
#include "oracle/distribution.hpp"

namespace isologit::test {
namespace {

using detail::fold::ExactDistribution;

// As a round begins: the top is known.
ExactDistribution empty_for(const oracle::Row& row, std::size_t limbs) {
  ExactDistribution empty;
  empty.top = row.top();
  empty.top_id = row.argmax();
  empty.sums.limbs = limbs;
  return empty;
}

ExactDistribution fold_row(const std::vector<float>& z, const ExactDistribution& empty, oracle::Random& random) {
  return fold_in_any_order(
      z, random, empty,
      [](ExactDistribution& state, const Tile& tile) { state.absorb(tile.logits.data(), tile.count, tile.first_id); },
      [](ExactDistribution& state, const ExactDistribution& other) { state.merge(other); });
}

TEST(ExactDistribution, HoldsTheOraclesSumsWhateverTheOrder) {
  oracle::Random random(1);
  int far_rows = 0;
  for (const auto& [name, z] : rows(8)) {
    const oracle::Row row(z);
    if (row.kind() != oracle::RowKind::ordinary) continue;
    for (const std::size_t limbs : {1U, 2U, 3U, 8U}) {
      SCOPED_TRACE(name + " limbs " + std::to_string(limbs));
      const ExactDistribution state = fold_row(z, empty_for(row, limbs), random);
      const detail::fold::RelativeSums sums = state.finish();
      const auto bits = static_cast<mpfr_prec_t>(64 * limbs);
      const oracle::Tail& tail = row.tail(bits + 300);
      const oracle::Interval ties(mpq_class(row.ties() - 1), bits + 300);
      EXPECT_TRUE(holds(sums.rest, ties + tail.mass));
      EXPECT_TRUE(holds(sums.moment, tail.moment));
      EXPECT_TRUE(holds(sums.squares, ties + tail.squares));
      // Near, where nothing was left out for being far.
      for (const detail::exact::Ball* sum : {&sums.rest, &sums.moment, &sums.squares}) {
        if (state.sums.far > 0) continue;
        EXPECT_LE(rational(sum->radius), abs(rational(sum->middle)) * power_of_two(80 - bits));
      }
      far_rows += state.sums.far > 0 ? 1 : 0;
      float second = -std::numeric_limits<float>::infinity();
      for (std::size_t v = 0; v < z.size(); ++v) {
        if (static_cast<std::int64_t>(v) != row.argmax()) second = std::max(second, z[v]);
      }
      EXPECT_EQ(sums.second, second);
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  }
  EXPECT_GT(far_rows, 20);
}

TEST(ExactDistribution, AnEmptyStateChangesNothing) {
  oracle::Random random(2);
  for (const auto& [name, z] : rows(4)) {
    const oracle::Row row(z);
    if (row.kind() != oracle::RowKind::ordinary) continue;
    const ExactDistribution empty = empty_for(row, 3);
    const ExactDistribution state = fold_row(z, empty, random);
    ExactDistribution right = state;
    right.merge(empty);
    EXPECT_EQ(bytes_of(right), bytes_of(state)) << name;
    ExactDistribution left = empty;
    left.merge(state);
    EXPECT_EQ(bytes_of(left), bytes_of(state)) << name;
  }
}

TEST(ExactDistribution, BytesAndBackUnlessDamaged) {
  oracle::Random random(3);
  for (const auto& [name, z] : rows(4)) {
    const oracle::Row row(z);
    if (row.kind() != oracle::RowKind::ordinary) continue;
    const ExactDistribution empty = empty_for(row, 3);
    const ExactDistribution state = fold_row(z, empty, random);
    EXPECT_TRUE(survives_as_bytes(state, empty)) << name;
    ExactDistribution bad = state;
    bad.second = std::nanf("");
    ExactDistribution found = empty;
    EXPECT_FALSE(reads(found, bytes_of(bad)));
    bad = state;
    bad.sums.far = -1;
    EXPECT_FALSE(reads(found, bytes_of(bad)));
    bad = state;
    bad.sums.moment.radius.mantissa = -1;
    EXPECT_FALSE(reads(found, bytes_of(bad)));
  }
}

}  // namespace
}  // namespace isologit::test
