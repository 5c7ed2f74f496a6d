// What is refused, and in which words; floating-point modes of the caller.
#include <cfenv>
#include <cmath>
#include <limits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "forward/tensors.hpp"

namespace isologit::test {
namespace {

template <class Found>
void expect_refused(const Found& found, const std::string& words) {
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, StatusCode::invalid_argument);
  EXPECT_NE(found.error().message.find(words), std::string::npos) << found.error().message;
}

TEST(ForwardInput, IsRefusedByName) {
  Tensor x(DType::bf16, 2, 1, 8), y(DType::bf16, 2, 1, 8), other(DType::f32, 2, 1, 8);
  oracle::Random random(1);
  const Vector weight = random_vector(random, Family::normal, DType::bf16, 7);
  expect_refused(forward::rms_norm({x.view(), weight.view(), 0, false, y.output()}), "weight: 7 elements; expected 8");
  expect_refused(forward::rms_norm({x.view(), {}, -1, false, y.output()}), "epsilon: -1");
  expect_refused(forward::rms_norm({x.view(), {}, std::numeric_limits<float>::quiet_NaN(), false, y.output()}),
                 "epsilon");
  expect_refused(forward::residual({x.view(), other.view(), {}, 1, y.output()}),
                 "a: f32; expected the type of x, bf16");
  forward::TensorView shifted = x.view();
  shifted.tokens = 1;
  forward::TensorOutput inside = x.output();
  inside.data = static_cast<char*>(inside.data) + 4;
  expect_refused(forward::rms_norm({shifted, {}, 1, false, inside}), "overlap");
  forward::TensorOutput close = y.output();
  close.token_stride = 7;
  expect_refused(forward::rms_norm({x.view(), {}, 1, false, close}), "its rows would overlap");
  forward::TensorView far = x.view();
  far.token_stride = std::numeric_limits<std::int64_t>::max();
  expect_refused(forward::rms_norm({far, {}, 1, false, y.output()}), "address space");
  far.token_stride = std::numeric_limits<std::int64_t>::min();
  expect_refused(forward::rms_norm({far, {}, 1, false, y.output()}), "address space");
  const std::vector<float> frequencies{0.5F, 2.0F};
  const std::vector<std::int64_t> positions{0, -1};
  expect_refused(forward::rotary({x.view(), positions, frequencies, {}, 1, y.output()}), "frequencies[1]: 2");
  const std::vector<float> slow{0.5F};
  expect_refused(forward::rotary({x.view(), positions, slow, {}, 1, y.output()}), "positions[1]: -1");
  expect_refused(forward::rotary_frequencies(1, 8), "theta: 1");
  expect_refused(forward::rotary_frequencies(1e4F, 7), "dim: 7");
  forward::Options options;
  options.kernel = "nonesuch";
  const auto unknown = forward::rms_norm({x.view(), {}, 1, false, y.output()}, options);
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("nonesuch"), std::string::npos);
}

TEST(ForwardInput, AttentionIsRefusedByName) {
  Tensor q(DType::bf16, 2, 2, 8), k(DType::bf16, 4, 1, 8), y(DType::bf16, 2, 2, 8);
  const std::vector<std::int64_t> starts{0, 2}, counts{4}, first{0};
  forward::AttentionRequest good;
  good.q = q.view();
  good.kv.keys = good.kv.values = k.view();
  good.kv.first_keys = first;
  good.query_starts = starts;
  good.key_counts = counts;
  good.y = y.output();
  ASSERT_TRUE(forward::attention(good));
  auto bad = good;
  bad.scale = 0;
  expect_refused(forward::attention(bad), "scale: 0");
  bad = good;
  const std::vector<std::int64_t> many{5};
  bad.key_counts = many;
  expect_refused(forward::attention(bad), "first_keys[0]: 0 and 5 keys");
  bad = good;
  const std::vector<std::int32_t> table{0, 4};
  bad.kv.block_table = table;
  bad.kv.block_size = 2;
  bad.kv.blocks_per_sequence = 2;
  expect_refused(forward::attention(bad), "block_table[0, 1]: 4; expected 0 to 1");
  bad = good;
  const std::vector<std::int64_t> backwards{0, 3, 2};
  bad.query_starts = backwards;
  expect_refused(forward::attention(bad), "query_starts");
  bad = good;
  const std::vector<float> sinks{1};
  bad.sinks = sinks;
  expect_refused(forward::attention(bad), "sinks: 1 for 2 heads");
}

TEST(ForwardInput, NoTokens) {
  Tensor x(DType::bf16, 0, 1, 8);
  EXPECT_TRUE(forward::rms_norm({x.view(), {}, 1, false, x.output()}));
}

#if defined(__SSE2__)
TEST(ForwardInput, ModesOfTheCallerDoNotShow) {
  oracle::Random random(2);
  const Tensor x = Tensor::random(random, Family::tiny, DType::f32, 4, 1, 32);
  const Tensor a = Tensor::random(random, Family::tiny, DType::f32, 4, 1, 32);
  const auto run = [&] {
    std::vector<Tensor> results(4, Tensor(DType::f32, 4, 1, 32));
    EXPECT_TRUE(forward::rms_norm({x.view(), {}, 0x1p-140F, false, results[0].output()}));
    EXPECT_TRUE(forward::residual({x.view(), a.view(), {}, 0.5F, results[1].output()}));
    EXPECT_TRUE(forward::gate({forward::GateKind::silu, x.view(), a.view(), 1, 1, results[2].output()}));
    const std::vector<std::int64_t> positions{0, 1, 2, 3};
    const std::vector<float> frequencies{1.0F, 0.125F};
    EXPECT_TRUE(forward::rotary({x.view(), positions, frequencies, {}, 1, results[3].output()}));
    return results;
  };
  const std::vector<Tensor> right = run();
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040U | 0x6000U);  // flush to zero, denormals are zero, towards zero
  const unsigned set = _mm_getcsr();
  const std::vector<Tensor> found = run();
  EXPECT_EQ(_mm_getcsr() & 0xFFC0U, set & 0xFFC0U);
  _mm_setcsr(before);
  for (std::size_t i = 0; i < right.size(); ++i) EXPECT_TRUE(found[i] == right[i]) << i;
}
#endif

}  // namespace
}  // namespace isologit::test
