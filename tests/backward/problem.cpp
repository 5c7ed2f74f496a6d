#include "problem.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "isologit/kernels.hpp"
#include "oracle/logit.hpp"

namespace isologit::test {

namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

std::vector<std::uint8_t> encode_all(DType dtype, const std::vector<float>& values, std::size_t count) {
  std::vector<std::uint8_t> bytes(count * dtype_size(dtype), 0xA5);
  for (std::size_t i = 0; i < values.size(); ++i) oracle::encode(dtype, bytes.data(), i, values[i]);
  return bytes;
}

std::vector<float> decode_all(DType dtype, const std::vector<std::uint8_t>& bytes) {
  const std::vector<double> values = oracle::decode_all(dtype, bytes.data(), bytes.size() / dtype_size(dtype));
  return {values.begin(), values.end()};
}

oracle::Buffer old_buffer(const Problem& problem, const std::vector<float>& old, std::int64_t count) {
  oracle::Buffer buffer{std::vector<double>(size(count), 0.0), problem.output};
  if (problem.accumulate) buffer.values.assign(old.begin(), old.end());
  return buffer;
}

bool ignored(const Problem& problem, std::int64_t row) {
  if (problem.ids.empty()) return false;
  for (std::int64_t j = 0; j < problem.ids_per_row; ++j) {
    if (problem.ids[size(row * problem.ids_per_row + j)] != -100) return false;
  }
  return true;
}

oracle::RowUpstream upstream_of(const Problem& problem, std::int64_t row) {
  oracle::RowUpstream upstream;
  for (std::int64_t j = 0; j < problem.ids_per_row && !problem.d_logprobs.empty(); ++j) {
    const std::size_t at = size(row * problem.ids_per_row + j);
    if (problem.ids[at] == -100) continue;
    upstream.ids.push_back(problem.ids[at]);
    upstream.a.push_back(problem.d_logprobs[at]);
  }
  if (!problem.d_lse.empty()) upstream.b = problem.d_lse[size(row)];
  if (!problem.d_entropy.empty()) upstream.c = problem.d_entropy[size(row)];
  if (!problem.d_mean_logits.empty()) upstream.d = problem.d_mean_logits[size(row)];
  return upstream;
}

}  // namespace

float Problem::temperature(std::int64_t row) const {
  if (temperatures.empty()) return 1;
  return temperatures[temperatures.size() == 1 ? 0 : size(row)];
}

Head Problem::head() const {
  Head head;
  head.weight = data.weight_view();
  if (!data.bias.empty()) head.bias = data.bias_view();
  head.vocab_size = vocab();
  head.transforms = transforms;
  return head;
}

BackwardRequest Problem::request() const {
  BackwardRequest request;
  request.hidden = data.hidden_view();
  request.token_ids = ids;
  request.ids_per_row = ids_per_row;
  request.temperatures = temperatures;
  request.support = support;
  request.summaries = summaries;
  if (!d_logprobs.empty()) request.d_logprobs = d_logprobs.data();
  if (!d_lse.empty()) request.d_lse = d_lse.data();
  if (!d_entropy.empty()) request.d_entropy = d_entropy.data();
  if (!d_mean_logits.empty()) request.d_mean_logits = d_mean_logits.data();
  if (!d_logits.empty()) request.d_logits = {d_logits.data(), DType::f32, rows(), vocab(), vocab()};
  return request;
}

void Problem::fill_old(std::uint64_t seed) {
  accumulate = true;
  oracle::Random random(seed);
  const auto fill = [&](std::vector<float>& old, std::int64_t count) {
    std::vector<std::uint8_t> one(4);
    for (std::int64_t i = 0; i < count; ++i) {
      oracle::encode(output, one.data(), 0, static_cast<float>(random.normal()));
      old.push_back(static_cast<float>(oracle::decode(output, one.data(), 0)));
    }
  };
  fill(old_dhidden, rows() * cols());
  fill(old_dweight, vocab() * cols());
  fill(old_dbias, vocab());
}

void Problem::set_mask(std::vector<std::uint8_t> new_mask, bool banned) {
  mask = std::move(new_mask);
  lists[0] = {0};
  lists[1].clear();
  for (std::int64_t n = 0; n < rows(); ++n) {
    for (std::int64_t v = 0; v < vocab(); ++v) {
      if ((mask[size(n * vocab() + v)] == 0) == banned) lists[1].push_back(v);
    }
    lists[0].push_back(static_cast<std::int64_t>(lists[1].size()));
  }
  support = {};
  (banned ? support.banned : support.kept) = {lists[0], lists[1]};
}

void Problem::set_mask_bytes(std::vector<std::uint8_t> new_mask, bool shared) {
  mask = std::move(new_mask);
  for (std::size_t i = size(vocab()); shared && i < mask.size(); ++i) mask[i] = mask[i - size(vocab())];
  support = {};
  support.mask = {mask.data(), shared ? 0 : vocab()};
}

Problem make_problem(const oracle::DotShape& shape, oracle::DotFamily family, std::uint64_t seed,
                     std::int64_t ids_per_row) {
  Problem problem;
  problem.data = oracle::make_dot(shape, family, seed);
  problem.ids_per_row = ids_per_row;
  oracle::Random random(seed + 1000);
  const auto draw = [&] { return static_cast<float>(random.normal()); };
  for (std::int64_t i = 0; i < shape.rows * ids_per_row; ++i) {
    const bool skip = random.below(9) == 0;
    problem.ids.push_back(skip ? -100
                               : static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(shape.vocab))));
    problem.d_logprobs.push_back(draw());
  }
  for (std::int64_t i = 0; i < shape.rows; ++i) {
    problem.d_lse.push_back(random.below(3) == 0 ? 0.0F : draw());
    problem.d_entropy.push_back(random.below(3) == 0 ? 0.0F : draw());
  }
  return problem;
}

std::vector<std::uint8_t> random_mask(const Problem& problem, std::uint64_t seed) {
  oracle::Random random(seed);
  std::vector<std::uint8_t> mask(size(problem.rows() * problem.vocab()));
  for (std::uint8_t& in : mask) in = random.below(3) == 0 ? 1 : 0;
  return mask;
}

std::vector<std::uint8_t> small_supports() {
  std::vector<std::uint8_t> mask(6 * 12);
  mask[1 * 12 + 3] = 1;
  mask[2 * 12 + 5] = 1;
  mask[3 * 12 + 4] = mask[3 * 12 + 5] = 1;
  std::fill(mask.begin() + 4 * 12, mask.end(), std::uint8_t{1});
  mask[4 * 12 + 3] = 0;
  return mask;
}

Gradients run(const Problem& problem, const BackwardOptions& options) {
  const auto elements = [](std::int64_t rows, std::int64_t cols) { return size(rows * cols); };
  BackwardRequest request = problem.request();
  const auto old = [&](const std::vector<float>& values) { return problem.accumulate ? values : std::vector<float>{}; };
  std::vector<std::uint8_t> dhidden =
      encode_all(problem.output, old(problem.old_dhidden), elements(problem.rows(), problem.cols()));
  std::vector<std::uint8_t> dweight =
      encode_all(problem.output, old(problem.old_dweight), elements(problem.vocab(), problem.cols()));
  std::vector<std::uint8_t> dbias = encode_all(problem.output, old(problem.old_dbias), size(problem.vocab()));
  request.dhidden = {dhidden.data(), problem.output, problem.cols(), problem.accumulate};
  request.dweight = {dweight.data(), problem.output, problem.cols(), problem.accumulate};
  request.dbias = {dbias.data(), problem.output, problem.vocab(), problem.accumulate};
  const Result<BackwardReport> report = backward(problem.head(), request, options);
  EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().message);
  if (!report) return {};
  return {decode_all(problem.output, dhidden), decode_all(problem.output, dweight), decode_all(problem.output, dbias),
          *report};
}

Expected expect(const Problem& problem) {
  Expected expected;
  expected.skipped.resize(size(problem.rows()));
  for (std::int64_t n = 0; n < problem.rows(); ++n) {
    std::vector<float> z0;
    for (std::int64_t v = 0; v < problem.vocab(); ++v) {
      if (!problem.z0.empty()) {
        z0.push_back(problem.z0[size(n * problem.vocab() + v)]);
        continue;
      }
      z0.push_back(oracle::logit(problem.data.hidden_row(n), problem.data.weight_row(v), size(problem.cols()),
                                 problem.data.bias_of(v)));
    }
    std::vector<float> dz(z0.size(), 0.0F);
    const float t = problem.temperature(n);
    bool skip = ignored(problem, n);
    if (!skip && problem.d_logits.empty()) {
      const oracle::RowUpstream upstream = upstream_of(problem, n);
      skip = upstream.all_zero();
      std::span<const std::uint8_t> mask;
      if (!problem.mask.empty()) mask = {&problem.mask[size(n * problem.vocab())], size(problem.vocab())};
      if (!skip) dz = oracle::dz_of_row(z0, mask, upstream, problem.transforms, t);
    } else if (!skip) {
      const std::span<const float> g(&problem.d_logits[size(n * problem.vocab())], size(problem.vocab()));
      skip = std::all_of(g.begin(), g.end(), [](float x) { return x == 0; });
      dz = oracle::dz_of_logits(z0, g, problem.transforms, t);
    }
    expected.skipped[size(n)] = skip ? 1 : 0;
    expected.dz.insert(expected.dz.end(), dz.begin(), dz.end());
  }
  const oracle::GradientSums sums{expected.dz, size(problem.rows()), size(problem.vocab()), expected.skipped};
  const std::size_t cols = size(problem.cols());
  expected.gradients = {oracle::dhidden(sums, problem.data.weight_values, cols,
                                        old_buffer(problem, problem.old_dhidden, problem.rows() * problem.cols())),
                        oracle::dweight(sums, problem.data.hidden_values, cols,
                                        old_buffer(problem, problem.old_dweight, problem.vocab() * problem.cols())),
                        oracle::dbias(sums, old_buffer(problem, problem.old_dbias, problem.vocab())),
                        {}};
  return expected;
}

void expect_same_bits(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;  // types other than f32 decode to other NaNs
    if (oracle::bits_of(actual[i]) == oracle::bits_of(expected[i])) continue;
    if (++wrong <= 3) ADD_FAILURE() << what << "[" << i << "]: " << actual[i] << ", expected " << expected[i];
  }
  EXPECT_EQ(wrong, 0U) << what;
}

void expect_same_bits(const Gradients& actual, const Gradients& expected, const std::string& what) {
  expect_same_bits(actual.dhidden, expected.dhidden, what + " dhidden");
  expect_same_bits(actual.dweight, expected.dweight, what + " dweight");
  expect_same_bits(actual.dbias, expected.dbias, what + " dbias");
}

void expect_exact(const Problem& problem, const std::string& what) {
  const Expected expected = expect(problem);
  for (const std::string& kernel : runnable_kernels(problem.rows() * problem.vocab() < 3000)) {
    BackwardOptions options;
    options.arithmetic = Arithmetic::exact;
    options.kernel = kernel;
    options.threads = 2;
    expect_same_bits(run(problem, options), expected.gradients, what + " " + kernel);
  }
}

std::vector<std::string> runnable_kernels(bool reference) {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    const bool exact = kernel.arithmetic == Arithmetic::exact;
    if (kernel.runnable && exact && (reference || kernel.name != "reference")) names.push_back(kernel.name);
  }
  return names;
}

}  // namespace isologit::test
