#include <gtest/gtest.h>

#include "golden/results.hpp"
#include "isologit/backward.hpp"
#include "isologit/sample.hpp"
#include "isologit/score.hpp"

namespace isologit::golden {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

ScoreOptions options_for(const std::string& kernel) {
  ScoreOptions options;
  options.kernel = kernel;
  options.threads = 2;
  return options;
}

// What score and sample are told alike.
template <class Request>
Request request_for(const Rows& rows) {
  Request request;
  request.hidden = rows.data.hidden_view();
  request.temperatures = rows.temperatures;
  request.support = rows.support();
  if (!rows.computed.empty() && !rows.by_list) request.row_mask = rows.computed;
  if (!rows.computed.empty() && rows.by_list) {
    request.row_list = rows.listed_rows;
    request.use_row_list = true;
  }
  return request;
}

template <class Report>
void expect_success(const Result<Report>& report, const std::string& name, const std::string& kernel) {
  if (!report) {
    ADD_FAILURE() << name << ": " << report.error().message;
  } else {
    EXPECT_EQ(report->kernel, kernel) << name;
  }
}

}  // namespace

Results by_library(const ScoreCase& one, const std::string& kernel) {
  const std::size_t count = at(one.rows());
  std::vector<float> logprobs(count, 7), raw(count, 7), lse(count, 7), entropy(count, 7), sum_p2(count, 7),
      log_kept(count, 7), ids_logprobs(count * at(one.per_row), 7), top_logprobs(count * at(one.k), 7);
  std::vector<std::int64_t> argmax(count, 7), rank(count, 7), top_ids(count * at(one.k), 7);
  auto request = request_for<ScoreRequest>(one);
  request.token_ids = one.token_ids;
  request.logprobs = logprobs.data();
  request.raw_logprobs = raw.data();
  request.lse = lse.data();
  request.entropy = entropy.data();
  request.sum_p2 = sum_p2.data();
  request.log_kept = log_kept.data();
  request.argmax = argmax.data();
  request.rank = rank.data();
  request.ids_per_row = one.per_row;
  request.ids = one.ids;
  request.ids_logprobs = ids_logprobs.data();
  request.top_k = one.k;
  request.top_k_ids = top_ids.data();
  request.top_k_logprobs = top_logprobs.data();
  expect_success(score(one.head(), request, options_for(kernel)), one.name, kernel);
  return {output("logprobs", logprobs),
          output("raw_logprobs", raw),
          output("lse", lse),
          output("entropy", entropy),
          output("sum_p2", sum_p2),
          output("log_kept", log_kept),
          output("argmax", argmax),
          output("rank", rank),
          output("ids_logprobs", ids_logprobs),
          output("top_k_ids", top_ids),
          output("top_k_logprobs", top_logprobs)};
}

Results by_library(const LogitsCase& one, const std::string& kernel) {
  const std::size_t count = at(one.rows() * one.count);
  std::vector<std::uint8_t> bytes(count * dtype_size(one.dtype), 0xA5);
  auto request = request_for<ScoreRequest>(one);
  request.logits = {bytes.data(), one.dtype, one.count, one.begin, one.count};
  expect_success(score(one.head(), request, options_for(kernel)), one.name, kernel);
  Output logits{"logits", {}};
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t bits = 0;
    for (std::size_t byte = dtype_size(one.dtype); byte-- > 0;) {
      bits = bits << 8 | bytes[i * dtype_size(one.dtype) + byte];
    }
    logits.bits.push_back(bits);
  }
  return {logits};
}

Results by_library(const SampleCase& one, const std::string& kernel) {
  const std::size_t count = at(one.rows());
  std::vector<std::int64_t> ids(count, 7);
  std::vector<float> logprobs(count, 7), cut_logprobs(count, 7), log_kept_cut(count, 7);
  std::vector<std::uint64_t> seeds, sequences;
  std::vector<std::uint32_t> positions;
  std::vector<float> min_p, top_p;
  std::vector<std::int64_t> top_k;
  for (std::size_t n = 0; n < count; ++n) {
    seeds.push_back(one.keys[n].seed);
    sequences.push_back(one.keys[n].sequence);
    positions.push_back(one.keys[n].position);
    min_p.push_back(one.cuts[n].min_p);
    top_k.push_back(one.cuts[n].top_k);
    top_p.push_back(one.cuts[n].top_p);
  }
  auto request = request_for<SampleRequest>(one);
  request.seeds = seeds;
  request.sequence_ids = sequences;
  request.positions = positions;
  request.min_p = min_p;
  request.top_k = top_k;
  request.top_p = top_p;
  request.ids = ids.data();
  request.logprobs = logprobs.data();
  request.cut_logprobs = cut_logprobs.data();
  request.log_kept_cut = log_kept_cut.data();
  expect_success(sample(one.head(), request, options_for(kernel)), one.name, kernel);
  return {output("ids", ids), output("logprobs", logprobs), output("cut_logprobs", cut_logprobs),
          output("log_kept_cut", log_kept_cut)};
}

Results by_library(const BackwardCase& one, const std::string& kernel) {
  BackwardOptions options;
  options.arithmetic = Arithmetic::exact;
  options.kernel = kernel;
  options.threads = 2;
  const test::Gradients gradients = test::run(one.problem, options);
  EXPECT_EQ(gradients.report.kernel, kernel) << one.name;
  return {output("dhidden", gradients.dhidden), output("dweight", gradients.dweight), output("dbias", gradients.dbias)};
}

}  // namespace isologit::golden
