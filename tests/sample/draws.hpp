// Draws through the public interface from a row of logits given outright: the weight is [V, 1], the hidden state is 1.
#pragma once

#include <algorithm>
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
  Support support = {};
  unsigned outputs = 15;  // bit 0: ids, 1: logprobs, 2: cut_logprobs, 3: log_kept_cut
};

// Lists of ids per row, and what they own.
struct Lists {
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int64_t> ids;

  void add(const std::vector<std::int64_t>& row) {
    ids.insert(ids.end(), row.begin(), row.end());
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
  IdLists view() const { return {offsets, ids}; }
};

// The oracle's mask of a row's support, id by id as the words of isologit/score.hpp define it.
inline std::vector<std::uint8_t> mask_of(const Support& support, std::size_t row, std::size_t vocab) {
  const auto listed = [&](const IdLists& lists, std::int64_t id) {
    const auto begin = lists.ids.begin() + lists.offsets[row];
    return std::find(begin, lists.ids.begin() + lists.offsets[row + 1], id) !=
           lists.ids.begin() + lists.offsets[row + 1];
  };
  std::vector<std::uint8_t> mask;
  for (std::int64_t id = 0; id < static_cast<std::int64_t>(vocab); ++id) {
    const bool in_range = id >= support.first_id && (support.last_id < 0 || id < support.last_id);
    const bool kept = support.kept.offsets.empty() || listed(support.kept, id);
    const bool banned = !support.banned.offsets.empty() && listed(support.banned, id);
    mask.push_back(in_range && kept && !banned ? 1 : 0);
  }
  return mask;
}

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
  request.support = plan.support;
  const unsigned outputs = plan.floats ? plan.outputs : 1;
  if ((outputs & 1U) != 0) request.ids = draws.ids.data();
  if ((outputs & 2U) != 0) request.logprobs = draws.logprobs.data();
  if ((outputs & 4U) != 0) request.cut_logprobs = draws.cut_logprobs.data();
  if ((outputs & 8U) != 0) request.log_kept_cut = draws.log_kept_cut.data();
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
