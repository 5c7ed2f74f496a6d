// One digest an operator, of results of every type over all kinds of data: the same on every kernel and machine, and
// what it was when it was recorded here, by the kernel that settles everything by definition.
#include <functional>

#include "forward/tensors.hpp"
#include "golden/digest.hpp"

namespace isologit::test {
namespace {

constexpr std::int64_t kTokens = 5, kHeads = 2, kDim = 24;

// An operator's results for one type and kind of data, drawn from `random`.
using Compute = std::function<Tensor(oracle::Random& random, Family family, DType dtype, const std::string& kernel)>;

struct Operator {
  const char* name;
  const char* digest;
  Compute compute;
};

template <class Request>
Tensor result_of(Request request, Result<forward::Report> (*compute)(const Request&, const forward::Options&),
                 DType dtype, const std::string& kernel) {
  Tensor y(dtype, kTokens, kHeads, kDim);
  request.y = y.output();
  const auto report = compute(request, options_of(2, kernel));
  EXPECT_TRUE(report) << report.error().message;
  return y;
}

Tensor operand(oracle::Random& random, Family family, DType dtype, std::int64_t tokens = kTokens) {
  return Tensor::random(random, family, dtype, tokens, kHeads, kDim, 1);
}

Tensor rms_norm(oracle::Random& random, Family family, DType dtype, const std::string& kernel) {
  const Tensor x = operand(random, family, dtype);
  const Vector w = random_vector(random, Family::normal, DType::f32, kDim);
  return result_of<forward::RmsNormRequest>({x.view(), w.view(), 1e-6F, true, {}}, forward::rms_norm, dtype, kernel);
}

Tensor layer_norm(oracle::Random& random, Family family, DType dtype, const std::string& kernel) {
  const Tensor x = operand(random, family, dtype);
  const Vector w = random_vector(random, Family::normal, DType::bf16, kDim);
  const Vector b = random_vector(random, Family::normal, DType::f16, kDim);
  return result_of<forward::LayerNormRequest>({x.view(), w.view(), b.view(), 1e-5F, {}}, forward::layer_norm, dtype,
                                              kernel);
}

Tensor residual(oracle::Random& random, Family family, DType dtype, const std::string& kernel) {
  const Tensor x = operand(random, family, dtype);
  const Tensor a = operand(random, family, dtype);
  const Tensor b = operand(random, family, dtype);
  return result_of<forward::ResidualRequest>({x.view(), a.view(), b.view(), 0.3F, {}}, forward::residual, dtype,
                                             kernel);
}

template <forward::GateKind kKind>
Tensor gate(oracle::Random& random, Family family, DType dtype, const std::string& kernel) {
  const Tensor g = operand(random, family, dtype);
  const Tensor u = operand(random, family, dtype);
  return result_of<forward::GateRequest>({kKind, g.view(), u.view(), 1.702F, 7, {}}, forward::gate, dtype, kernel);
}

Tensor rotary(oracle::Random& random, Family family, DType dtype, const std::string& kernel) {
  const Tensor x = operand(random, family, dtype);
  const auto frequencies = forward::rotary_frequencies(1e6F, kDim - 4);
  EXPECT_TRUE(frequencies);
  const std::vector<std::int64_t> positions{0, 1, 4095, 1 << 20, (std::int64_t{1} << 31) - 1};
  forward::RotaryRequest request;
  request.x = x.view();
  request.positions = positions;
  request.frequencies = *frequencies;
  request.factor = 1.25F;
  return result_of(request, forward::rotary, dtype, kernel);
}

Tensor attention(oracle::Random& random, Family family, DType dtype, const std::string& kernel) {
  const Tensor q = operand(random, Family::normal, dtype);
  const Tensor k = operand(random, family, dtype, 9);
  const Tensor v = operand(random, family, dtype, 9);
  const std::vector<std::int64_t> starts{0, 3, kTokens}, counts{5, 4}, firsts{0, 5};
  const std::vector<float> sinks{0.5F, -1.0F};
  forward::AttentionRequest request;
  request.q = q.view();
  request.kv.keys = k.view();
  request.kv.values = v.view();
  request.kv.first_keys = firsts;
  request.query_starts = starts;
  request.key_counts = counts;
  request.scale = 0.2F;
  request.window = 3;
  request.sinks = sinks;
  return result_of(request, forward::attention, dtype, kernel);
}

const Operator operators[] = {
    {"rms_norm", "a15bc42aab392104da3f985df3f3a309", rms_norm},
    {"layer_norm", "151ffe7d7507776f4e9fb0b5e3402b53", layer_norm},
    {"residual", "8ade1eb8e96d353b2348ec9d3cf7891c", residual},
    {"silu", "ca08c01f2a36c95ea2803332a4d4269d", gate<forward::GateKind::silu>},
    {"gelu_tanh", "865ecefb5334d5aebcac1e139a7d70a3", gate<forward::GateKind::gelu_tanh>},
    {"relu_squared", "b06c9d78581cfb347738ae112de54d52", gate<forward::GateKind::relu_squared>},
    {"clamped_swish", "76ad548b3c8bccc26764e50144b80dcb", gate<forward::GateKind::clamped_swish>},
    {"rotary", "ba6a329f553f397ee4b76b8e3cd00775", rotary},
    {"attention", "8251645401d3d3adae9e663661d74318", attention},
};

std::string digest_of(const Operator& one, const std::string& kernel) {
  golden::Output bits{one.name, {}};
  std::uint64_t seed = 0;
  for (const DType dtype : dtypes) {
    for (const Family family : families) {
      oracle::Random random(++seed);
      const Tensor y = one.compute(random, family, dtype, kernel);
      for (std::int64_t i = 0; i < kTokens * kHeads * kDim; ++i) {
        bits.bits.push_back(golden::bits_of(static_cast<float>(y.at(i / kDim / kHeads, i / kDim % kHeads, i % kDim))));
      }
    }
  }
  return golden::digest({bits});
}

TEST(GoldenForward, IsWhatItWas) {
  for (const Operator& one : operators) {
    for (const std::string& kernel : exact_kernels())
      EXPECT_EQ(digest_of(one, kernel), one.digest) << one.name << ' ' << kernel;
  }
}

TEST(GoldenForward, Frequencies) {
  std::vector<float> all;
  for (const auto& found : {forward::rotary_frequencies(1e4F, 128), forward::rotary_frequencies(1e6F, 64, 4),
                            forward::rotary_frequencies(5e5F, 128, forward::Llama3Scaling{8, 1, 4, 8192})}) {
    ASSERT_TRUE(found);
    all.insert(all.end(), found->begin(), found->end());
  }
  EXPECT_EQ(golden::digest({golden::output("frequencies", all)}), "a9fb2147226303c24541c85131d41f49");
}

}  // namespace
}  // namespace isologit::test
