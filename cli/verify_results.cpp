#include "cli/verify_results.hpp"

#include <fmt/format.h>

#include "cli/digest.hpp"
#include "cli/verify_forward.hpp"
#include "isologit/backward.hpp"
#include "isologit/given_logits.hpp"
#include "isologit/sample.hpp"

namespace isologit::detail::cli {
namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Nothing, or the error of a call.
template <class Report>
Result<Results> checked(const Result<Report>& report, Results results) {
  if (!report) return tl::unexpected(report.error());
  return results;
}

std::string hexadecimal(std::uint64_t bits, std::size_t bytes) { return fmt::format("0x{:0{}x}", bits, 2 * bytes); }

Result<Results> logits_results(const HeadCase& one, const ScoreOptions& options) {
  Results results;
  for (const DType dtype : kDataTypes) {
    std::vector<std::uint8_t> logits(size(one.rows() * one.weight.rows) * dtype_size(dtype));
    ScoreRequest request;
    request.hidden = one.hidden.matrix();
    request.temperatures = one.temperatures;
    request.logits = {logits.data(), dtype, one.weight.rows, 0, one.weight.rows};
    const auto report = score(one.head(), request, options);
    if (!report) return tl::unexpected(report.error());
    results.push_back(bits_of_bytes(fmt::format("logits as {}", dtype_name(dtype)), one.weight.rows, dtype, logits));
  }
  return results;
}

Result<Results> sample_results(const HeadCase& one, const ScoreOptions& options) {
  const std::size_t rows = size(one.rows());
  std::vector<std::int64_t> ids(rows);
  std::vector<float> logprobs(rows), cut_logprobs(rows), log_kept_cut(rows);
  SampleRequest request;
  request.hidden = one.hidden.matrix();
  request.temperatures = one.temperatures;
  request.seeds = one.seeds;
  request.sequence_ids = one.sequence_ids;
  request.positions = one.positions;
  request.min_p = one.min_p;
  request.top_k = one.top_k;
  request.top_p = one.top_p;
  request.support.last_id = one.last_id;
  request.ids = ids.data();
  request.logprobs = logprobs.data();
  request.cut_logprobs = cut_logprobs.data();
  request.log_kept_cut = log_kept_cut.data();
  const auto report = sample(one.head(), request, options);
  return checked(
      report, {bits_of_elements("ids", 1, ids), bits_of_elements("logprobs", 1, logprobs),
               bits_of_elements("cut_logprobs", 1, cut_logprobs), bits_of_elements("log_kept_cut", 1, log_kept_cut)});
}

Result<Results> gradient_results(const HeadCase& one, const ScoreOptions& options) {
  const std::int64_t cols = one.hidden.cols;
  std::vector<float> dhidden(size(one.rows() * cols)), dweight(size(one.weight.rows * cols)),
      dbias(size(one.weight.rows));
  BackwardRequest request;
  request.hidden = one.hidden.matrix();
  request.token_ids = one.token_ids;
  request.temperatures = one.temperatures;
  request.support.last_id = one.last_id;
  request.d_logprobs = one.d_logprobs.data();
  request.d_lse = one.d_lse.data();
  request.d_entropy = one.d_entropy.data();
  request.dhidden = {dhidden.data(), DType::f32, cols, false};
  request.dweight = {dweight.data(), DType::f32, cols, false};
  request.dbias = {dbias.data(), DType::f32, 0, false};
  BackwardOptions backward_options;
  backward_options.arithmetic = Arithmetic::exact;
  backward_options.logits = options.arithmetic;
  backward_options.threads = options.threads;
  backward_options.kernel = options.kernel;
  const auto report = backward(one.head(), request, backward_options);
  return checked(report, {bits_of_elements("dhidden", cols, dhidden), bits_of_elements("dweight", cols, dweight),
                          bits_of_elements("dbias", 1, dbias)});
}

// The gradient from the upstream of one of its outputs.
Result<void> dlogits_of(const HeadCase& one, const ScoreOptions& options, GivenLogitsBackwardRequest request,
                        std::vector<float>& dlogits) {
  request.logits = one.given.matrix();
  request.temperatures = one.temperatures;
  request.dlogits = dlogits.data();
  request.dlogits_row_stride = one.given.cols;
  BackwardOptions backward_options;
  backward_options.threads = options.threads;
  backward_options.kernel = options.kernel;
  const auto report = backward_logits(request, backward_options);
  if (!report) return tl::unexpected(report.error());
  return {};
}

// Of the logits that are given; rows are ignored where a token id says so, in what is asked of tokens.
Result<Results> given_results(const HeadCase& one, const ScoreOptions& options) {
  const std::int64_t vocab = one.given.cols;
  std::vector<float> logprobs(size(one.rows())), lse(size(one.rows())), entropy(size(one.rows())),
      all(size(one.rows() * vocab));
  GivenLogitsRequest rows;
  rows.logits = one.given.matrix();
  rows.temperatures = one.temperatures;
  GivenLogitsRequest tokens = rows;
  rows.lse = lse.data();
  rows.entropy = entropy.data();
  rows.log_softmax = all.data();
  rows.log_softmax_row_stride = vocab;
  tokens.token_ids = one.token_ids;
  tokens.logprobs = logprobs.data();
  for (const GivenLogitsRequest& request : {rows, tokens}) {
    if (const auto report = score_logits(request, options); !report) return tl::unexpected(report.error());
  }
  Results results = {bits_of_elements("logprobs", 1, logprobs), bits_of_elements("lse", 1, lse),
                     bits_of_elements("entropy", 1, entropy), bits_of_elements("log_softmax", vocab, all)};
  GivenLogitsBackwardRequest of_logprobs, of_lse, of_entropy;
  of_logprobs.token_ids = one.token_ids;
  of_logprobs.d_logprobs = one.d_logprobs.data();
  of_lse.d_lse = one.d_lse.data();
  of_entropy.d_entropy = one.d_entropy.data();
  for (const auto& [name, request] :
       {std::pair{"dlogits of logprobs", of_logprobs}, std::pair{"dlogits of lse", of_lse},
        std::pair{"dlogits of entropy", of_entropy}}) {
    std::vector<float> dlogits(all.size());
    if (const auto done = dlogits_of(one, options, request, dlogits); !done) return tl::unexpected(done.error());
    results.push_back(bits_of_elements(name, vocab, dlogits));
  }
  return results;
}

}  // namespace

Bits bits_of_bytes(std::string name, std::int64_t per_row, DType dtype, const std::vector<std::uint8_t>& bytes) {
  Bits made{std::move(name), per_row, {}, dtype_size(dtype)};
  for (std::size_t at = 0; at < bytes.size(); at += dtype_size(dtype)) {
    std::uint64_t bits = 0;
    if (dtype == DType::f32) {
      std::uint32_t word = 0;
      std::memcpy(&word, &bytes[at], sizeof word);
      bits = word;
    } else {
      std::uint16_t word = 0;
      std::memcpy(&word, &bytes[at], sizeof word);
      bits = word;
    }
    made.values.push_back(bits);
  }
  return made;
}

std::string digest_of(const Results& results) {
  Digest digest;
  const auto add_word = [&](std::uint64_t word) {
    std::array<std::byte, 8> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(word >> (8 * i) & 0xFFU);
    digest.add(bytes);
  };
  for (const Bits& one : results) {
    digest.add(std::as_bytes(std::span(one.name)));
    add_word(one.values.size());
    for (const std::uint64_t bits : one.values) add_word(bits);
  }
  return digest.text().substr(0, kDigestLength);
}

std::int64_t count_of(const Results& results) {
  std::int64_t count = 0;
  for (const Bits& one : results) count += static_cast<std::int64_t>(one.values.size());
  return count;
}

Difference difference(const Results& found, const Results& expected) {
  Difference told;
  if (found.size() != expected.size()) return {count_of(expected), "other outputs"};
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Bits& a = found[i];
    const Bits& b = expected[i];
    if (a.name != b.name || a.values.size() != b.values.size()) {
      told.elements += static_cast<std::int64_t>(b.values.size());
      if (told.first.empty()) told.first = fmt::format("{} is not like {}", a.name, b.name);
      continue;
    }
    for (std::size_t j = 0; j < a.values.size(); ++j) {
      if (a.values[j] == b.values[j]) continue;
      if (++told.elements > 1 || !told.first.empty()) continue;
      const std::size_t cols = b.per_row > 0 ? size(b.per_row) : 1;
      const std::string place = cols > 1 ? fmt::format("{}, {}", j / cols, j % cols) : fmt::format("{}", j);
      told.first = fmt::format("{}[{}]: {}, expected {}", a.name, place, hexadecimal(a.values[j], a.bytes),
                               hexadecimal(b.values[j], b.bytes));
    }
  }
  return told;
}

Result<Results> score_results(const HeadCase& one, const ScoreOptions& options) {
  return score_results_by(one, [&](const ScoreRequest& request) -> Result<void> {
    const auto report = score(one.head(), request, options);
    if (!report) return tl::unexpected(report.error());
    return {};
  });
}

Result<Results> score_results_by(const HeadCase& one, const std::function<Result<void>(const ScoreRequest&)>& make) {
  const std::size_t rows = size(one.rows());
  std::vector<float> logprobs(rows), raw(rows), lse(rows), entropy(rows), sum_p2(rows), log_kept(rows), mean(rows),
      top_logprobs(rows * size(kTopK));
  std::vector<std::int64_t> argmax(rows), rank(rows), top_ids(rows * size(kTopK));
  ScoreRequest request;
  request.hidden = one.hidden.matrix();
  request.token_ids = one.token_ids;
  request.temperatures = one.temperatures;
  request.support.last_id = one.last_id;
  request.logprobs = logprobs.data();
  request.raw_logprobs = raw.data();
  request.lse = lse.data();
  request.entropy = entropy.data();
  request.sum_p2 = sum_p2.data();
  request.log_kept = log_kept.data();
  request.mean_logits = mean.data();
  request.argmax = argmax.data();
  request.rank = rank.data();
  request.top_k = kTopK;
  request.top_k_ids = top_ids.data();
  request.top_k_logprobs = top_logprobs.data();
  const Result<void> made = make(request);
  return checked(made, {bits_of_elements("logprobs", 1, logprobs), bits_of_elements("raw_logprobs", 1, raw),
                        bits_of_elements("lse", 1, lse), bits_of_elements("entropy", 1, entropy),
                        bits_of_elements("sum_p2", 1, sum_p2), bits_of_elements("log_kept", 1, log_kept),
                        bits_of_elements("mean_logits", 1, mean), bits_of_elements("argmax", 1, argmax),
                        bits_of_elements("rank", 1, rank), bits_of_elements("top_k_ids", kTopK, top_ids),
                        bits_of_elements("top_k_logprobs", kTopK, top_logprobs)});
}

std::span<const Operation> operations() {
  static const Operation list[] = {
      {"logits", kHeadShape, logits_results, {}},
      {"score", kHeadShape, score_results, {}},
      {"sample", kHeadShape, sample_results, {}},
      {"gradients", kSmallShape, gradient_results, {}},
      {"given logits", kSmallShape, given_results, {}},
      {"linear", {}, {}, linear_results},
      {"norms", {}, {}, norm_results},
      {"residual", {}, {}, residual_results},
      {"gates", {}, {}, gate_results},
      {"rotary", {}, {}, rotary_results},
      {"attention", {}, {}, attention_results},
  };
  return list;
}

Result<Results> results_of(const Operation& operation, DataFamily family, const ScoreOptions& options) {
  Results all;
  for (const DType dtype : kDataTypes) {
    Result<Results> made = operation.head ? operation.head(make_head_case(family, dtype, operation.shape), options)
                                          : operation.forward(make_forward_case(family, dtype), options);
    if (!made) return made;
    for (Bits& bits : *made) {
      bits.name = fmt::format("{} {}", dtype_name(dtype), bits.name);
      all.push_back(std::move(bits));
    }
  }
  return all;
}

}  // namespace isologit::detail::cli
