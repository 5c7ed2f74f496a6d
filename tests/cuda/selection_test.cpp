// Supports, log_kept, rank and top-k of the CUDA kernels, compiled for the host, against the oracle: bits.
#include "scores.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::DotFamily;

// All of these, of every id.
Asked everything(std::int64_t vocab, int top_k) {
  Asked asked = all_ids(vocab);
  asked.rank = asked.log_kept = true;
  asked.top_k = top_k;
  return asked;
}

// The same of one row; log_kept may be left open, which is counted.
void expect_right_or_open(const oracle::DotData& data, const Asked& asked, const std::string& what, int& opens) {
  HostLauncher launcher;
  Scores found = scores_by(launcher, data, asked);
  const Scores want = scores_of_oracle(data, asked);
  if (is_open(found.log_kept[0])) {
    ++opens;
    --found.status.open;
    found.log_kept = want.log_kept;
  }
  expect_same(found, want, what);
}

TEST(CudaSelection, EveryFamilyOfRowsUnderAMask) {
  int opens = 0;
  for (const auto family : oracle::row_families) {
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      const std::int64_t vocab = seed % 4 == 3 ? 2 : 70;
      Asked asked = everything(vocab, seed % 2 == 0 ? 7 : 80);
      if (seed > 0) asked.mask = random_mask(static_cast<std::size_t>(vocab), seed);
      expect_right_or_open(head_of(oracle::make_row(family, vocab, seed)), asked,
                           std::string(oracle::name_of(family)) + " seed " + std::to_string(seed), opens);
    }
  }
  EXPECT_LE(opens, 2);  // of midpoint_gap, where all but the greatest are some 10^3 below
}

// Rows of several stretches, and keys that agree in all bytes but the last.
TEST(CudaSelection, TopKOverStretches) {
  for (const int distinct : {1, 2, 3, 300}) {
    oracle::Random random(static_cast<std::uint64_t>(distinct));
    std::vector<float> z(2 * kStretch + 300);
    for (auto& x : z) x = 1.0F + 0x1p-23F * static_cast<float>(random.below(static_cast<std::uint64_t>(distinct)));
    for (const int k : {1, 2, 300, 1024}) {
      Asked asked;
      asked.ids = {0, kStretch, 2 * kStretch + 299, 17};
      asked.ids_per_row = 4;
      asked.rank = true;
      asked.top_k = k;
      if (k == 300) asked.mask = random_mask(z.size(), 4);
      expect_right(head_of(z), asked, std::to_string(distinct) + " different, the first " + std::to_string(k));
    }
  }
}

// Masks and lists of each row, beside operands of several rows and groups of rows.
TEST(CudaSelection, SupportsOfEachRow) {
  for (const auto family : {DotFamily::normal, DotFamily::signed_zeros, DotFamily::specials}) {
    const auto data = oracle::make_dot({7, 90, 40}, family, 51);
    for (int kind = 0; kind < 5; ++kind) {
      Asked asked;
      asked.ids = some_ids(7, 3, 90, 52);
      asked.ids_per_row = 3;
      asked.rank = asked.log_kept = true;
      asked.top_k = 4;
      asked.transforms = {true, 8.0F, ScaleKind::multiply, 0.3F, TransformOrder::softcap_first};
      asked.temperatures = {0.7F};
      if (kind == 0) asked.mask = random_mask(90, 53);
      if (kind == 1) asked.mask = random_mask(7 * 90, 57);
      if (kind == 2 || kind == 4) random_lists(asked.kept_offsets, asked.kept, 7, 90, 55);
      if (kind == 3 || kind == 4) random_lists(asked.banned_offsets, asked.banned, 7, 90, 56);
      for (const int most_rows : {0, 3}) {
        asked.most_rows = most_rows;
        expect_right(data, asked, std::string(oracle::name_of(family)) + " kind " + std::to_string(kind));
      }
    }
  }
}

// Of fast logits what is selected is as exact.
TEST(CudaSelection, OfFastLogits) {
  const auto data = oracle::make_dot({7, 90, 40, DType::bf16, DType::bf16, {}}, DotFamily::normal, 58);
  Asked asked;
  asked.ids = some_ids(7, 3, 90, 52);
  asked.ids_per_row = 3;
  asked.rank = asked.log_kept = true;
  asked.top_k = 4;
  asked.mask = random_mask(7 * 90, 57);
  HostLauncher launcher;
  asked.fast = logits_by(launcher, data, {}, DType::f32, true);
  expect_right(data, asked, "fast");
}

// The kept ids far above or below the dropped ones; shares whose distance from a midpoint only a sign tells.
TEST(CudaSelection, SharesOfAllSizes) {
  const auto check = [](const std::vector<float>& kept, const std::vector<float>& dropped) {
    std::vector<float> z = kept;
    z.insert(z.end(), dropped.begin(), dropped.end());
    Asked asked = everything(static_cast<std::int64_t>(z.size()), 2);
    asked.mask.assign(z.size(), 0);
    std::fill_n(asked.mask.begin(), kept.size(), std::uint8_t{1});
    expect_right(head_of(z), asked, "kept " + std::to_string(kept[0]) + " dropped " + std::to_string(dropped[0]));
  };
  for (const float gap : {0.0F, 1e-30F, 0x1p-24F, 1.0F, 27.9F, 28.1F, 60.0F, 0x1.000002p6F, 103.9F, 104.1F, 554.0F,
                          689.9F, 690.1F, 2000.0F, 1e6F, 3e38F}) {
    for (const float top : {0.0F, 20.0F, 0x1.000002p20F, -40.0F}) {
      for (const float below : {0.5F, 30.0F, 600.0F}) {
        const float low = top - gap;
        check({low}, {top});
        check({top}, {low});
        check({low}, {top, top - below});
        check({low, low - below}, {top, top - 2 * below, top - 3 * below});
        check({top, low}, {top - below, low});
      }
    }
  }
}

// Kept and dropped ids that are alike but for their greatest: the result is proven, but where the difference of these
// is a midpoint.
TEST(CudaSelection, SharesOfEqualSums) {
  Asked asked = all_ids(4);
  asked.log_kept = true;
  asked.mask = {1, 1, 0, 0};
  expect_right(head_of({0.0F, -1.0F, 200.0F, 199.0F}), asked, "no midpoint");
  HostLauncher launcher;
  const auto data = head_of({2.0F, -2.0F, 33554436.0F, 33554432.0F});
  const Scores found = scores_by(launcher, data, asked);
  EXPECT_EQ(found.status.open, 1U);
  EXPECT_TRUE(std::isnan(found.log_kept[0]));
  EXPECT_EQ(count_different(found.lse, scores_of_oracle(data, asked).lse), 0);
}

// What a mask leaves out is not looked at, but by log_kept.
TEST(CudaSelection, NothingOfWhatIsLeftOut) {
  const float nan = std::nanf("");
  for (const bool log_kept : {false, true}) {
    for (const std::vector<float>& z :
         {std::vector<float>{1.0F, 2.0F, nan}, {1.0F, -HUGE_VALF, HUGE_VALF}, {1.0F, 2.0F, -HUGE_VALF}}) {
      Asked asked = everything(3, 3);
      asked.log_kept = log_kept;
      asked.mask = {1, 1, 0};
      expect_right(head_of(z), asked, std::to_string(z[2]));
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
