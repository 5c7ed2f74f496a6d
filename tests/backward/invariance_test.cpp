// What may not change a bit: threads, other rows, position, padding, strides, chunking. Exact gradients are the
// oracle's; calls are compared with one another where there are too many of them to ask it, and where the arithmetic is
// fast.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "problem.hpp"

namespace isologit::test {
namespace {

using oracle::DotFamily;

constexpr Arithmetic kBoth[] = {Arithmetic::exact, Arithmetic::fast};

// Enough rows and ids for several strips, pieces and blocks, none of them full.
Problem large() { return make_problem({150, 1300, 21, DType::bf16, DType::bf16, {}}, DotFamily::normal, 8, 2); }

// What the others are compared with.
Gradients expected_of(const Problem& problem, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::exact) return expect(problem).gradients;
  return run(problem, {});
}

TEST(Invariance, TheBitsAreRight) { expect_exact(large(), "large"); }

TEST(Invariance, ThreadCount) {
  const Problem problem = large();
  for (const std::string& kernel : runnable_kernels(false)) {
    for (const Arithmetic arithmetic : kBoth) {
      const auto with = [&](int threads) {
        BackwardOptions options;
        options.arithmetic = arithmetic;
        options.kernel = kernel;
        options.threads = threads;
        return run(problem, options);
      };
      const Gradients one = with(1);
      for (const int threads : {2, 3, 4, 17}) expect_same_bits(with(threads), one, fmt::format("{} threads", threads));
    }
  }
}

// The part of a problem that is its rows [begin, end).
Problem slice(const Problem& whole, std::int64_t begin, std::int64_t end) {
  Problem part = whole;
  const auto cut = [&](auto& values, std::int64_t each) {
    if (values.empty()) return;
    values = {values.begin() + begin * each, values.begin() + end * each};
  };
  part.data.shape.rows = end - begin;
  cut(part.data.hidden, whole.cols() * static_cast<std::int64_t>(dtype_size(whole.data.shape.hidden)));
  cut(part.data.hidden_values, whole.cols());
  cut(part.ids, whole.ids_per_row);
  cut(part.d_logprobs, whole.ids_per_row);
  cut(part.d_lse, 1);
  cut(part.d_entropy, 1);
  return part;
}

TEST(Invariance, HiddenGradientsDoNotDependOnOtherRows) {
  Problem whole = large();
  whole.d_logprobs[40] = 1e30F;  // beyond f32's products: its neighbours must not notice
  for (const std::string& kernel : runnable_kernels(false)) {
    for (const Arithmetic arithmetic : kBoth) {
      BackwardOptions options;
      options.arithmetic = arithmetic;
      options.kernel = kernel;
      const Gradients all = run(whole, options);
      for (const auto& [begin, end] : {std::pair{0, 1}, {19, 22}, {149, 150}, {7, 141}}) {
        const Gradients part = run(slice(whole, begin, end), options);
        const std::vector<float> same(all.dhidden.begin() + begin * whole.cols(),
                                      all.dhidden.begin() + end * whole.cols());
        expect_same_bits(part.dhidden, same, fmt::format("{} rows {} to {}", kernel, begin, end));
      }
    }
  }
}

// Exact gradients of micro-batches add up in the buffer with one rounding each, as the oracle does it.
TEST(Invariance, TiedWeightsAccumulateInTheBuffer) {
  Problem whole = make_problem({12, 33, 7, DType::bf16, DType::bf16, {}}, DotFamily::normal, 12);
  Problem first = slice(whole, 0, 5);
  Problem second = slice(whole, 5, 12);
  BackwardOptions options;
  options.arithmetic = Arithmetic::exact;
  const Gradients before = run(first, options);
  second.accumulate = true;
  second.old_dhidden.assign(static_cast<std::size_t>(second.rows() * second.cols()), 0.25F);
  second.old_dweight = before.dweight;
  second.old_dbias = before.dbias;
  expect_same_bits(run(second, options), expect(second).gradients, "second micro-batch");
}

TEST(Invariance, StridesAndHalvesDoNotMatter) {
  const Problem problem = make_problem({9, 70, 13, DType::bf16, DType::bf16, {}}, DotFamily::normal, 14);
  for (const Arithmetic arithmetic : kBoth) {
    BackwardOptions options;
    options.arithmetic = arithmetic;
    const Gradients all = expected_of(problem, arithmetic);
    constexpr float kUntouched = 7.0F;
    std::vector<float> wide(9 * 20, kUntouched);
    BackwardRequest request = problem.request();
    request.dhidden = {wide.data(), DType::f32, 20, false};
    ASSERT_TRUE(backward(problem.head(), request, options).has_value());
    for (std::size_t i = 0; i < wide.size(); ++i) {
      const std::size_t column = i % 20;
      EXPECT_EQ(wide[i], column < 13 ? all.dhidden[i / 20 * 13 + column] : kUntouched);
    }
    std::vector<float> dweight(70 * 13);
    request.dhidden = {};
    request.dweight = {dweight.data(), DType::f32, 13, false};
    ASSERT_TRUE(backward(problem.head(), request, options).has_value());
    expect_same_bits(dweight, all.dweight, "dweight alone");
  }
}

TEST(Invariance, RowsPastTheVocabularyAreNeitherReadNorWritten) {
  Problem problem = make_problem({4, 70, 13, DType::bf16, DType::bf16, {}}, DotFamily::normal, 15);
  for (std::int64_t& id : problem.ids) id = id < 0 ? id : id % 61;
  Problem shorter = problem;
  shorter.data.shape.vocab = 61;
  // NaN in the padding would be seen.
  for (std::size_t i = 61 * 13; i < 70 * 13; ++i) {
    oracle::encode(DType::bf16, problem.data.weight.data(), i, std::numeric_limits<float>::quiet_NaN());
  }
  for (const Arithmetic arithmetic : kBoth) {
    std::vector<float> dweight(70 * 13, 5.0F);
    BackwardRequest request = problem.request();
    request.dweight = {dweight.data(), DType::f32, 13, false};
    Head head = problem.head();
    head.vocab_size = 61;
    BackwardOptions options;
    options.arithmetic = arithmetic;
    ASSERT_TRUE(backward(head, request, options).has_value());
    expect_same_bits({dweight.begin(), dweight.begin() + 61 * 13}, expected_of(shorter, arithmetic).dweight, "dweight");
    for (std::size_t i = 61 * 13; i < dweight.size(); ++i) EXPECT_EQ(dweight[i], 5.0F);
  }
}

}  // namespace
}  // namespace isologit::test
