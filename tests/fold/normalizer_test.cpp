// From sums to results: however little is known of the sums, a result is either right or undecided; and at last it is
// decided.
#include "fold/normalizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fold/exact_distribution.hpp"
#include "fold/rows.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"
#include "score/hard_rows.hpp"

namespace isologit::test {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// What a round can use when its sums are known to 2^-bits of themselves.
detail::fold::Normalizer conclude(const std::vector<float>& z, std::size_t limbs, std::int64_t bits) {
  const auto top = std::max_element(z.begin(), z.end());
  detail::fold::ExactDistribution exact;
  exact.top = *top;
  exact.top_id = top - z.begin();
  exact.sums.limbs = limbs;
  exact.absorb(z.data(), static_cast<std::int64_t>(z.size()), 0);
  detail::fold::RelativeSums sums = exact.finish();
  for (detail::exact::Ball* sum : {&sums.rest, &sums.moment, &sums.squares}) {
    sum->radius = sum->radius + detail::exact::magnitude(*sum) * detail::exact::Bound::power_of_two(-bits);
  }
  const bool several = std::count_if(z.begin(), z.end(), [](float x) { return x > kNothing; }) > 1;
  return detail::fold::Normalizer(sums, *top, several, limbs);
}

// Counts the results that were not decided; fails on wrong ones.
class Judge {
 public:
  void expect(std::optional<float> result, float expected) {
    if (!result) {
      ++undecided_;
    } else {
      EXPECT_EQ(oracle::bits_of(*result), oracle::bits_of(expected)) << *result << ", expected " << expected;
    }
  }
  int undecided() const { return undecided_; }

 private:
  int undecided_ = 0;
};

std::vector<std::vector<float>> ordinary_rows() {
  std::vector<std::vector<float>> all;
  for (const float x : testing_score::hard_lse) all.push_back({0, x});
  for (const float x : testing_score::hard_entropy) all.push_back({0, x});
  for (const oracle::RowFamily family : oracle::row_families) {
    for (std::uint64_t seed = 0; seed < 11; ++seed) {
      const std::vector<float> z = make_row(family, 20, seed);
      if (oracle::Row(z).kind() == oracle::RowKind::ordinary) all.push_back(z);
    }
  }
  return all;
}

TEST(Normalizer, IsRightOrUndecidedAtEveryPrecision) {
  int undecided = 0;
  for (const std::vector<float>& z : ordinary_rows()) {
    const oracle::Row row(z);
    const auto last = static_cast<std::int64_t>(z.size()) - 1;
    int left = 0;
    for (const std::int64_t bits : {8, 20, 24, 28, 34, 44, 50, 60, 100, 400}) {
      for (const std::size_t limbs : {2U, 4U, 16U}) {
        const detail::fold::Normalizer known = conclude(z, limbs, bits);
        Judge judge;
        judge.expect(known.lse(), row.lse());
        judge.expect(known.logprob(z.back()), row.logprob(last));
        judge.expect(known.entropy(), row.entropy());
        judge.expect(known.sum_p2(), row.sum_p2());
        left = judge.undecided();
        undecided += left > 0 ? 1 : 0;
      }
    }
    EXPECT_EQ(left, 0);
  }
  EXPECT_GT(undecided, 100);
}

enum class Kept { half, most, all_but_the_first, the_last };

bool is_kept(Kept kind, std::size_t id, std::size_t vocab, oracle::Random& random) {
  switch (kind) {
    case Kept::half: return random.below(2) == 0;
    case Kept::most: return random.below(10) != 0;
    case Kept::all_but_the_first: return id > 0;
    case Kept::the_last: break;
  }
  return id == vocab - 1;
}

// The share that a support keeps. Of a row with a midpoint gap the first id is the top and the last one the other end.
TEST(Normalizer, SharesAreRightOrUndecidedAtEveryPrecision) {
  oracle::Random random(1);
  int undecided = 0;
  int decided_rows = 0;
  for (const std::vector<float>& z : ordinary_rows()) {
    for (const Kept kind : {Kept::half, Kept::most, Kept::all_but_the_first, Kept::the_last}) {
      std::vector<float> kept(z.size(), kNothing), dropped(z.size(), kNothing);
      std::vector<std::uint8_t> mask;
      for (std::size_t v = 0; v < z.size(); ++v) {
        mask.push_back(is_kept(kind, v, z.size(), random) ? 1 : 0);
        (mask[v] != 0 ? kept : dropped)[v] = z[v];
      }
      const auto is_empty = [](const std::vector<float>& part) {
        return std::all_of(part.begin(), part.end(), [](float x) { return x == kNothing; });
      };
      if (is_empty(kept) || is_empty(dropped)) continue;
      const float expected = oracle::Row(z, mask).log_kept();
      int left = 0;
      for (const std::int64_t bits : {8, 24, 44, 60, 1000}) {
        for (const std::size_t limbs : {2U, 4U, 20U}) {
          Judge judge;
          judge.expect(conclude(kept, limbs, bits).log_share(conclude(dropped, limbs, bits)), expected);
          left = judge.undecided();
          undecided += left;
        }
      }
      EXPECT_EQ(left, 0);
      ++decided_rows;
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  }
  EXPECT_GT(undecided, 100);
  EXPECT_GT(decided_rows, 100);
}

}  // namespace
}  // namespace isologit::test
