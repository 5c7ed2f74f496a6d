// The f64 sums of a row, whatever the order of tiles and merges: counts and ids exactly, and balls that hold the
// oracle's sums.
#include "fold/distribution.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "exact/numbers.hpp"
#include "fold/rows.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"

namespace isologit::test {
namespace {

using detail::fold::Distribution;
using detail::kernels::FoldLoops;

constexpr mpfr_prec_t kBits = 300;

Distribution fold_row(const detail::kernels::FoldLoops& loops, const std::vector<float>& z, oracle::Random& random) {
  return fold_in_any_order(
      z, random, Distribution{},
      [&](Distribution& state, Tile& tile) {
        const std::vector<float> before = tile.logits;
        state.absorb(loops, tile.logits.data(), tile.count, tile.first_id);
        for (std::size_t i = 0; i < before.size(); ++i) {
          ASSERT_EQ(oracle::bits_of(before[i]), oracle::bits_of(tile.logits[i])) << "the tile is not restored";
        }
      },
      [&](Distribution& state, const Distribution& other) { state.merge(loops, other); });
}

// Near enough to be of use: to 2^-40 of itself, or nothing that f32 could see.
bool is_narrow(const detail::exact::Ball& ball) {
  return rational(ball.radius) <= abs(rational(ball.middle)) * power_of_two(-40) + power_of_two(-900);
}

void expect_sums(const Distribution& state, const oracle::Row& row) {
  detail::fold::RelativeSums sums;
  ASSERT_TRUE(relative_sums(state, sums));
  const oracle::Interval ties(mpq_class(row.ties() - 1), kBits);  // all but the one at the top
  const oracle::Tail& tail = row.tail(kBits);
  EXPECT_TRUE(holds(sums.rest, ties + tail.mass));
  EXPECT_TRUE(holds(sums.moment, tail.moment));
  EXPECT_TRUE(holds(sums.squares, ties + tail.squares));
  EXPECT_TRUE(is_narrow(sums.rest) && is_narrow(sums.moment) && is_narrow(sums.squares));
}

TEST(Distribution, IsTheRowsWhateverTheOrder) {
  oracle::Random random(1);
  int with_sums = 0;
  for (const auto& [name, z] : rows(24)) {
    const oracle::Row row(z);
    const std::int64_t above = std::count_if(z.begin(), z.end(), [](float x) { return x > -HUGE_VALF; });
    const auto nan = std::find_if(z.begin(), z.end(), [](float x) { return std::isnan(x); });
    for (const auto& [lanes_name, loops] : all_loops()) {
      SCOPED_TRACE(name + " of " + std::to_string(z.size()) + " by " + lanes_name);
      const Distribution state = fold_row(*loops, z, random);
      EXPECT_EQ(state.absorbed, static_cast<std::int64_t>(z.size()));
      EXPECT_EQ(state.above_minus_inf, above);
      EXPECT_EQ(state.first_nan, nan == z.end() ? -1 : nan - z.begin());
      EXPECT_EQ(state.ordinary(), row.kind() == oracle::RowKind::ordinary);
      if (row.kind() != oracle::RowKind::nan) {
        EXPECT_EQ(state.top_id, row.argmax());
      }
      if (row.kind() != oracle::RowKind::ordinary) continue;
      EXPECT_EQ(state.top, row.top());
      EXPECT_EQ(state.ties, row.ties());
      detail::fold::RelativeSums sums;
      if (loops->sums == nullptr) {
        EXPECT_FALSE(relative_sums(state, sums));
      } else if (std::fabs(row.top()) <= 0x1p19F) {
        expect_sums(state, row);
        ++with_sums;
      } else if (row.top() > 0x1p20F) {
        EXPECT_FALSE(relative_sums(state, sums));
      }
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  }
  EXPECT_GT(with_sums, 300);
}

// A top that rises step by step moves the sums each time, from logits far below to logits far above.
TEST(Distribution, FollowsATopThatRises) {
  for (const auto& [name, loops] : all_loops()) {
    if (loops->sums == nullptr) continue;
    for (const float step : {0.001F, 0.7F, 30.0F, 900.0F}) {
      std::vector<float> z;
      for (int i = 0; i < 200; ++i) z.push_back(static_cast<float>(i - 100) * step);
      Distribution state;
      for (std::size_t i = 0; i < z.size(); ++i) {
        std::vector<float> tile(detail::kernels::kLaneGroup, -HUGE_VALF);
        tile[0] = z[i];
        state.absorb(*loops, tile.data(), 1, static_cast<std::int64_t>(i));
      }
      SCOPED_TRACE(name + " steps of " + std::to_string(step));
      expect_sums(state, oracle::Row(z));
    }
  }
}

TEST(Distribution, AnEmptyStateChangesNothing) {
  oracle::Random random(2);
  for (const auto& [name, z] : rows(6)) {
    const detail::kernels::FoldLoops& loops = portable_loops();
    const Distribution state = fold_row(loops, z, random);
    Distribution right = state;
    right.merge(loops, Distribution{});
    EXPECT_EQ(bytes_of(right), bytes_of(state)) << name;
    Distribution left;
    left.merge(loops, state);
    EXPECT_EQ(bytes_of(left), bytes_of(state)) << name;
  }
}

TEST(Distribution, BytesAndBack) {
  oracle::Random random(3);
  for (const auto& [name, z] : rows(6)) {
    const Distribution state = fold_row(portable_loops(), z, random);
    EXPECT_TRUE(survives_as_bytes(state, Distribution{})) << name;
    Distribution found;
    ASSERT_TRUE(reads(found, bytes_of(state)));
    if (state.ordinary() && std::fabs(state.top) <= 0x1p19F) expect_sums(found, oracle::Row(z));
  }
}

TEST(Distribution, DamagedBytesAreRefused) {
  oracle::Random random(4);
  const Distribution good = fold_row(portable_loops(), make_row(oracle::RowFamily::normal, 90, 1), random);
  const auto refused = [&](const auto& damage) {
    Distribution bad = good;
    damage(bad);
    Distribution found;
    return !reads(found, bytes_of(bad));
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(refused([](Distribution&) {}));
  EXPECT_TRUE(refused([](Distribution& bad) { bad.top = std::nanf(""); }));
  for (const std::int64_t count : {std::int64_t{-1}, (std::int64_t{1} << 40) + 1}) {
    EXPECT_TRUE(refused([=](Distribution& bad) { bad.ties = count; }));
    EXPECT_TRUE(refused([=](Distribution& bad) { bad.above_minus_inf = count; }));
    EXPECT_TRUE(refused([=](Distribution& bad) { bad.absorbed = count; }));
    EXPECT_TRUE(refused([=](Distribution& bad) { bad.rises = count; }));
  }
  for (const auto sum : {&Distribution::mass, &Distribution::moment, &Distribution::squares}) {
    for (const double value : {-1.0, infinity, std::nan("")}) {
      EXPECT_TRUE(refused([=](Distribution& bad) { (bad.*sum).high = value; })) << value;
    }
    EXPECT_TRUE(refused([=](Distribution& bad) { (bad.*sum).low = infinity; }));
  }
}

}  // namespace
}  // namespace isologit::test
