// Gradients by the CUDA kernels on the host, of the problems of the library's own tests, and what holds of them.
#pragma once

#include <gtest/gtest.h>

#include "backward/bound.hpp"
#include "backward/problem.hpp"
#include "cuda/backward.cuh"
#include "problem.hpp"

namespace isologit::detail::cuda {

using oracle::DotFamily;
using test::Problem;

// What sums may be off by: of parts what CONTRACT.md 5 says, else what outer.cuh says.
inline double part_of(DType other) { return other == DType::bf16 ? 0x1p-16 : 0x1p-19; }

struct Asked {
  bool kept_summaries = false;  // those of a forward pass
  std::int64_t most_rows = 1 << 20;
  int most_columns = 1 << 20;
  DType type = DType::f32;
  bool accumulate = false;  // to ones
  Layout layout = {};
  bool fast = false;
};

struct Found {
  std::vector<double> dhidden, dweight, dbias;  // decoded
  Status status;
};

inline Transforms transforms_of(const Problem& problem) {
  const auto& t = problem.transforms;
  return {t.has_softcap ? t.softcap : 0.0F,
          static_cast<int>(t.scale_kind),
          t.scale,
          t.order == TransformOrder::scale_first,
          problem.temperatures.empty() ? nullptr : problem.temperatures.data(),
          problem.temperatures.size() == 1};
}

inline Support support_of(const Problem& problem) {
  const auto lists = [](const isologit::IdLists& from) { return IdLists{from.offsets.data(), from.ids.data()}; };
  const auto& [data, row_stride] = problem.support.mask;
  return {data, row_stride, lists(problem.support.kept), lists(problem.support.banned)};
}

inline const float* data_of(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

inline Found gradients_by_kernels(const Problem& problem, const Asked& asked = {}, const Products& products = {}) {
  HostLauncher launcher(products);
  const auto& shape = problem.data.shape;
  const LaidOut hidden(problem.data.hidden_view(), asked.layout), weight(problem.data.weight_view(), asked.layout);
  const auto size = [](std::int64_t x) { return static_cast<std::size_t>(x); };
  const auto ones = [&](std::int64_t count) {
    std::vector<std::uint8_t> made(size(count) * dtype_size(asked.type));
    for (std::int64_t i = 0; i < count; ++i) oracle::encode(asked.type, made.data(), size(i), 1.0F);
    return made;
  };
  auto dhidden = ones(shape.rows * shape.cols), dweight = ones(shape.vocab * shape.cols), dbias = ones(shape.vocab);
  const int type = static_cast<int>(asked.type);
  const std::int64_t k = problem.ids_per_row;
  Status status = {0, 0};
  std::vector<double> summaries(size(shape.rows * kKeptDoubles), -77.0);
  BackwardRequest r = {};
  static_cast<HeadOperands&>(r) = operands_of(problem.data, hidden, weight);
  r.transforms = transforms_of(problem);
  r.upstream = {problem.ids.empty() ? nullptr : problem.ids.data(),
                data_of(problem.d_logprobs),
                static_cast<int>(k),
                -100,
                data_of(problem.d_lse),
                data_of(problem.d_entropy),
                data_of(problem.d_mean_logits)};
  r.support = support_of(problem);
  r.dhidden = {dhidden.data(), type, shape.cols, asked.accumulate};
  r.dweight = {dweight.data(), type, shape.cols, asked.accumulate};
  r.dbias = {dbias.data(), type, 0, false};
  r.status = &status;
  r.fast = asked.fast;
  const auto make = [&](const Product& p) { launch_prepared_of(r.weight.type, launcher, p, r.hidden.type); };
  BackwardPlan plan = backward_plan(r.rows, r.size, r.hidden.type, r.vocab, false);
  if (asked.most_rows < plan.rows || asked.most_columns < plan.columns) {  // as a plan of a larger problem has it
    plan.rows = std::min(plan.rows, asked.most_rows);
    plan.columns = std::min(plan.columns, asked.most_columns);
    plan.dhidden_at = plan.bytes;
    plan.dweight_at = plan.dhidden_at + r.rows * r.size * 8;
    plan.bytes = plan.dweight_at + plan.columns * static_cast<std::int64_t>(r.size) * 8;
  }
  const auto workspace = std::make_unique_for_overwrite<Sixteen[]>(size(plan.bytes + 15) / 16);
  std::memset(static_cast<void*>(workspace.get()), 0xA5, size(plan.bytes));
  r.workspace = workspace.get();
  const auto score_by = [&](const ScoreRequest& score, const ScorePlan& of) {
    launch_score(launcher, score, true, of, make);
  };
  if (asked.kept_summaries) {
    ScoreRequest score = {};
    static_cast<HeadOperands&>(score) = r;
    score.transforms = r.transforms;
    score.support = r.support;
    score.status = &status;
    score.fast = r.fast;
    score.summaries = summaries.data();
    score.summary_doubles = kKeptDoubles;
    score.workspace = static_cast<char*>(r.workspace) + plan.scores_at;
    score_by(score, plan.scores);
    r.summaries = summaries.data();
  }
  launch_backward(launcher, r, plan, make, score_by);
  const auto decoded = [&](const std::vector<std::uint8_t>& raw) {
    return oracle::decode_all(asked.type, raw.data(), raw.size() / dtype_size(asked.type));
  };
  return {decoded(dhidden), decoded(dweight), decoded(dbias), status};
}

inline std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

inline void expect_bounds(const Problem& problem, const std::string& what, const Asked& asked = {},
                          const Products& products = {}) {
  const test::Expected expected = test::expect(problem);
  const Found found = gradients_by_kernels(problem, asked, products);
  const std::int64_t n = problem.rows(), v = problem.vocab(), h = problem.cols();
  std::vector<double> hidden = problem.data.hidden_values;
  hidden.resize(expected.skipped.size() * static_cast<std::size_t>(h));
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    if (expected.skipped[i / static_cast<std::size_t>(h)] != 0) hidden[i] = 0;
  }
  const std::vector<double> ones(static_cast<std::size_t>(n), 1.0);
  const std::vector<float> dhidden = floats(found.dhidden), dweight = floats(found.dweight);
  const std::vector<float> dbias = floats(found.dbias);
  test::expect_within({dhidden, n, v, h, v, 1, problem.data.weight_values, part_of(problem.data.shape.weight)},
                      expected.dz, what + " dhidden");
  test::expect_within({dweight, v, n, h, 1, v, hidden, part_of(problem.data.shape.hidden)}, expected.dz,
                      what + " dweight");
  test::expect_within({dbias, v, n, 1, 1, v, ones, 0x1p-19}, expected.dz, what + " dbias");
  EXPECT_EQ(found.status.open, 0U) << what;
  EXPECT_EQ(found.status.wrong, 0U) << what;
}

inline void expect_same(const Found& a, const Found& b, const std::string& what) {
  const auto same = [](const std::vector<double>& x, const std::vector<double>& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) == 0;
  };
  EXPECT_TRUE(same(a.dhidden, b.dhidden)) << what << " dhidden";
  EXPECT_TRUE(same(a.dweight, b.dweight)) << what << " dweight";
  EXPECT_TRUE(same(a.dbias, b.dbias)) << what << " dbias";
}

}  // namespace isologit::detail::cuda
