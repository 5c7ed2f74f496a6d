// Draws through the public interface from a row of logits given outright: the weight is [V, 1], the hidden state is 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isologit/kernels.hpp"
#include "isologit/sample.hpp"
#include "oracle/sample.hpp"

namespace isologit::test {

inline Head head_of(const std::vector<float>& logits) {
  Head head;
  const auto vocab = static_cast<std::int64_t>(logits.size());
  head.weight = {logits.data(), DType::f32, vocab, 1, 1};
  head.vocab_size = vocab;
  return head;
}

struct Draws {
  std::vector<std::int64_t> ids;
  std::vector<float> logprobs;
  std::vector<float> cut_logprobs;
  std::vector<float> log_kept_cut;
  SampleReport report;
};

// One draw for each position in [0, count).
struct Plan {
  oracle::Cuts cuts;
  float temperature = 1;
  oracle::DrawKey key;  // its position is the first one
  std::int64_t count = 1;
  ScoreOptions options;
  bool floats = true;
};

inline Result<Draws> draw(const std::vector<float>& logits, const Plan& plan) {
  const float one = 1;
  Draws draws;
  const auto count = static_cast<std::size_t>(plan.count);
  draws.ids.resize(count);
  draws.logprobs.resize(count);
  draws.cut_logprobs.resize(count);
  draws.log_kept_cut.resize(count);
  std::vector<std::uint32_t> positions(count);
  for (std::size_t i = 0; i < count; ++i) positions[i] = plan.key.position + static_cast<std::uint32_t>(i);
  SampleRequest request;
  request.hidden = {&one, DType::f32, plan.count, 1, 0};
  request.temperatures = {&plan.temperature, 1};
  request.seeds = {&plan.key.seed, 1};
  request.sequence_ids = {&plan.key.sequence, 1};
  request.positions = positions;
  request.min_p = {&plan.cuts.min_p, 1};
  request.top_k = {&plan.cuts.top_k, 1};
  request.top_p = {&plan.cuts.top_p, 1};
  request.ids = draws.ids.data();
  if (plan.floats) {
    request.logprobs = draws.logprobs.data();
    request.cut_logprobs = draws.cut_logprobs.data();
    request.log_kept_cut = draws.log_kept_cut.data();
  }
  Result<SampleReport> report = sample(head_of(logits), request, plan.options);
  if (!report) return tl::unexpected(report.error());
  draws.report = *report;
  return draws;
}

inline std::vector<std::string> runnable_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.runnable && kernel.arithmetic == Arithmetic::exact) names.push_back(kernel.name);
  }
  return names;
}

}  // namespace isologit::test
