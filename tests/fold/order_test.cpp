// The folds of order, rank and top-k, whatever the order of tiles and merges.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fold/rank.hpp"
#include "fold/rows.hpp"
#include "fold/top_k.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"

namespace isologit::test {
namespace {

using detail::fold::Rank;
using detail::fold::TopK;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// A row and the support that its rank and its first ids are over; a byte for each id, or none: all.
struct Supported {
  std::string name;
  std::vector<float> z;
  std::vector<std::uint8_t> mask;

  std::vector<float> with_nothing_outside() const {
    std::vector<float> some = z;
    for (std::size_t v = 0; v < mask.size(); ++v) {
      if (mask[v] == 0) some[v] = kNothing;
    }
    return some;
  }
  const std::uint8_t* mask_at(std::int64_t id) const { return mask.empty() ? nullptr : mask.data() + id; }
};

std::vector<Supported> supported_rows(oracle::Random& random) {
  std::vector<Supported> all;
  for (const auto& [name, z] : rows(8)) {
    all.push_back({name, z, {}});
    std::vector<std::uint8_t> mask;
    for (std::size_t v = 0; v < z.size(); ++v) mask.push_back(random.below(4) == 0 ? 0 : 1);
    all.push_back({name + " masked", z, mask});
  }
  return all;
}

TEST(Rank, IsTheOraclesWhateverTheOrder) {
  oracle::Random random(1);
  int ranks = 0;
  for (const Supported& tested : supported_rows(random)) {
    const oracle::Row row(tested.z, tested.mask);
    // Rows with NaN or without a logit have a rank by rule.
    if (row.kind() == oracle::RowKind::nan || row.kind() == oracle::RowKind::none) continue;
    const std::vector<float> z = tested.with_nothing_outside();
    for (int i = 0; i < 10; ++i) {
      const std::int64_t id = random.between(0, static_cast<std::int64_t>(z.size()) - 1);
      if (!row.in_support(id)) continue;
      for (const NamedLoops& by : all_loops()) {
        const Rank rank = fold_in_any_order(
            z, random, Rank{z[static_cast<std::size_t>(id)], id, 0},
            [&](Rank& state, const Tile& tile) {
              state.absorb(*by.loops, tile.logits.data(), tested.mask_at(tile.first_id), tile.count, tile.first_id);
            },
            [](Rank& state, const Rank& other) { state.merge(other); });
        ASSERT_EQ(rank.before + 1, row.rank(id)) << tested.name << " id " << id << " by " << by.name;
        ++ranks;
      }
    }
  }
  EXPECT_GT(ranks, 1000);
}

TopK fold_top_k(const detail::kernels::FoldLoops& loops, const Supported& tested, std::int64_t k,
                oracle::Random& random) {
  return fold_in_any_order(
      tested.with_nothing_outside(), random, TopK(k),
      [&](TopK& state, const Tile& tile) {
        state.absorb(loops, tile.logits.data(), tested.mask_at(tile.first_id), tile.count, tile.first_id);
      },
      [](TopK& state, const TopK& other) { state.merge(other); });
}

std::vector<std::int64_t> ids_of(const TopK& state) {
  std::vector<std::int64_t> ids;
  for (const detail::fold::Candidate& one : state.sorted()) ids.push_back(one.id);
  return ids;
}

TEST(TopK, IsTheOraclesWhateverTheOrder) {
  oracle::Random random(2);
  for (const Supported& tested : supported_rows(random)) {
    const oracle::Row row(tested.z, tested.mask);
    if (row.kind() == oracle::RowKind::none) continue;  // no ids, by rule
    for (const std::int64_t k : {1, 2, 7, 64, 1000}) {
      std::vector<std::int64_t> expected = row.top_k(k);
      std::erase(expected, -1);
      for (const NamedLoops& by : all_loops()) {
        const TopK state = fold_top_k(*by.loops, tested, k, random);
        ASSERT_EQ(ids_of(state), expected) << tested.name << " k " << k << " by " << by.name;
        for (const detail::fold::Candidate& one : state.sorted()) {
          ASSERT_EQ(oracle::bits_of(one.logit), oracle::bits_of(tested.z[static_cast<std::size_t>(one.id)]));
        }
      }
    }
  }
}

TEST(TopK, AnEmptyStateChangesNothingAndBytesComeBack) {
  oracle::Random random(3);
  for (const Supported& tested : supported_rows(random)) {
    const TopK state = fold_top_k(portable_loops(), tested, 5, random);
    TopK right = state;
    right.merge(TopK(5));
    EXPECT_EQ(ids_of(right), ids_of(state)) << tested.name;
    TopK left(5);
    left.merge(state);
    EXPECT_EQ(ids_of(left), ids_of(state)) << tested.name;
    EXPECT_TRUE(survives_as_bytes(state, TopK(5))) << tested.name;
  }
}

TEST(TopK, StatesOfMoreThanKAreRefused) {
  oracle::Random random(4);
  const Supported tested{"normal", make_row(oracle::RowFamily::normal, 90, 1), {}};
  const TopK state = fold_top_k(portable_loops(), tested, 5, random);
  TopK same(5), fewer(4), more(6);
  EXPECT_TRUE(reads(same, bytes_of(state)));
  EXPECT_TRUE(reads(more, bytes_of(state)));
  EXPECT_FALSE(reads(fewer, bytes_of(state)));
  detail::base::ByteWriter writer;
  writer.put(std::int64_t{-1});
  EXPECT_FALSE(reads(same, writer.take()));
}

}  // namespace
}  // namespace isologit::test
