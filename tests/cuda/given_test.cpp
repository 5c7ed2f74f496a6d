// Results of given logits by the CUDA kernels, compiled for the host, against the oracle: bits.
#include "cuda/given.cuh"

#include "scores.hpp"

namespace isologit::detail::cuda {
namespace {

struct AskedOfGiven {
  std::int64_t rows, vocab;
  DType type = DType::f32;
  std::vector<float> temperatures;
  std::vector<std::int64_t> ids;
  int ids_per_row = 0;
  int most_rows = 0;
};
struct Results {
  std::vector<float> logprobs, lse, entropy, log_softmax;
};

// A row's elements, rounded to bf16 or f16 by leaving bits away: what is given is what they then are.
std::uint32_t element_bits(DType type, float x) {
  if (type == DType::f32) return bit_cast<std::uint32_t>(x);
  if (type == DType::bf16) return bit_cast<std::uint32_t>(x) >> 16;
  if (x != x) return 0x7E00U;
  const std::uint32_t sign = (bit_cast<std::uint32_t>(x) >> 16) & 0x8000U;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65504.0F) return sign | 0x7C00U;
  return sign | bit_cast<std::uint32_t>(magnitude * 0x1p-112F) >> 13;
}

// z is [rows, vocab]; what is given lies 3 elements further apart than a row is long, with NaN between.
void expect_right(const std::vector<float>& z, const AskedOfGiven& asked, const std::string& what) {
  const std::size_t size = asked.type == DType::f32 ? 4 : 2, stride = static_cast<std::size_t>(asked.vocab) + 3;
  const auto n_rows = static_cast<std::size_t>(asked.rows), vocab = static_cast<std::size_t>(asked.vocab);
  const auto k = static_cast<std::size_t>(asked.ids_per_row);
  std::vector<std::uint8_t> given(n_rows * stride * size, 0xFF);
  std::vector<float> last(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    const std::uint32_t bits = element_bits(asked.type, z[i]);
    std::memcpy(given.data() + (i / vocab * stride + i % vocab) * size, &bits, size);
    const float value = asked.type == DType::f32    ? z[i]
                        : asked.type == DType::bf16 ? Bf16::value(bits)
                                                    : F16::value(bits);
    const auto& t = asked.temperatures;
    last[i] = oracle::transform(value, {}, t.empty() ? 1.0F : t[t.size() == 1 ? 0 : i / vocab]);
  }
  Results found{std::vector<float>(n_rows * k, -77), std::vector<float>(n_rows, -77), std::vector<float>(n_rows, -77),
                std::vector<float>(z.size(), -77)};
  Results want = found;
  for (std::size_t n = 0; n < n_rows; ++n) {
    const oracle::Row row(std::span<const float>(last.data() + n * vocab, vocab));
    const auto* ids = asked.ids.data() + n * k;
    const bool ignored = k > 0 && std::all_of(ids, ids + k, [](std::int64_t id) { return id == kIgnored; });
    want.lse[n] = ignored ? 0.0F : row.lse();
    want.entropy[n] = ignored ? 0.0F : row.entropy();
    for (std::size_t v = 0; v < vocab; ++v) {
      want.log_softmax[n * vocab + v] = ignored ? 0.0F : row.logprob(static_cast<std::int64_t>(v));
    }
    for (std::size_t i = 0; i < k; ++i) want.logprobs[n * k + i] = ids[i] == kIgnored ? 0.0F : row.logprob(ids[i]);
  }
  Status status = {0, 0};
  GivenPlan plan = given_plan(asked.rows, static_cast<int>(asked.vocab), asked.ids_per_row);
  if (asked.most_rows != 0) plan.rows = std::min<std::int64_t>(plan.rows, asked.most_rows);
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(static_cast<std::size_t>(plan.bytes + 15) / 16);
  std::memset(static_cast<void*>(workspace.get()), 0xA5, static_cast<std::size_t>(plan.bytes));
  HostLauncher launcher;
  launch_given(launcher,
               GivenRequest{{given.data(), static_cast<std::int64_t>(stride), static_cast<int>(asked.type)},
                            asked.rows,
                            static_cast<int>(asked.vocab),
                            asked.temperatures.empty() ? nullptr : asked.temperatures.data(),
                            asked.temperatures.size() == 1,
                            asked.ids.empty() ? nullptr : asked.ids.data(),
                            asked.ids_per_row,
                            kIgnored,
                            found.logprobs.data(),
                            found.lse.data(),
                            found.entropy.data(),
                            found.log_softmax.data(),
                            asked.vocab,
                            &status,
                            workspace.get()},
               plan);
  EXPECT_EQ(count_different(found.log_softmax, want.log_softmax), 0) << what;
  EXPECT_EQ(count_different(found.logprobs, want.logprobs), 0) << what;
  EXPECT_EQ(count_different(found.lse, want.lse), 0) << what;
  EXPECT_EQ(count_different(found.entropy, want.entropy), 0) << what;
  EXPECT_EQ(status.open, 0U) << what;
  EXPECT_EQ(status.wrong, 0U) << what;
}

TEST(CudaGiven, EveryFamilyAndType) {
  for (const auto family : oracle::row_families) {
    for (const auto type : {DType::f32, DType::bf16, DType::f16}) {
      for (std::uint64_t seed = 0; seed < 6; ++seed) {
        AskedOfGiven asked{1, seed % 3 == 2 ? 1 : 70, type, {}, {}, 0, 0};
        if (seed % 2 == 1) asked.temperatures = {0.7F};
        expect_right(oracle::make_row(family, asked.vocab, seed), asked,
                     std::string(oracle::name_of(family)) + " seed " + std::to_string(seed) + " type " +
                         std::to_string(static_cast<int>(type)));
      }
    }
  }
}

// Several stretches and groups of rows, of which some are ignored.
TEST(CudaGiven, RowsAndIds) {
  const std::int64_t vocab = kStretch + 70;
  std::vector<float> z;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const auto row = oracle::make_row(oracle::RowFamily::normal, vocab, seed);
    z.insert(z.end(), row.begin(), row.end());
  }
  for (const int most_rows : {0, 2}) {
    for (const auto type : {DType::f32, DType::bf16}) {
      AskedOfGiven asked{5, vocab, type, {0.5F, 1.0F, 3.0F, 1e-2F, 0.1F}, {}, 2, most_rows};
      asked.ids = {0, kStretch, kIgnored, kIgnored, kIgnored, vocab - 1, 7, 7, 3, kStretch - 1};
      expect_right(z, asked, "rows at a time: " + std::to_string(most_rows));
    }
  }
}

TEST(CudaGiven, MemoryDoesNotGrow) {
  for (const std::int64_t rows : {1, 1000, 1000000}) {
    for (const int vocab : {1, 3000, 151936, 4194240}) {
      const GivenPlan plan = given_plan(rows, vocab, kMostIds);
      EXPECT_LE(plan.bytes, 256 << 20) << rows << ' ' << vocab;
      EXPECT_GE(plan.rows, 1);
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
