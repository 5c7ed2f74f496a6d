#include <algorithm>
#include <limits>

#include "golden/results.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"

namespace isologit::golden {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::vector<float> logits_of(const Rows& rows, std::int64_t row) {
  const oracle::DotData& data = rows.data;
  std::vector<float> z;
  for (std::int64_t v = 0; v < rows.vocab; ++v) {
    z.push_back(oracle::logit(data.hidden_row(row), data.weight_row(v), at(data.shape.cols), data.bias_of(v)));
  }
  return z;
}

std::vector<float> transformed(std::vector<float> z, const Transforms& transforms, float t) {
  for (float& logit : z) logit = oracle::transform(logit, transforms, t);
  return z;
}

float temperature_of(const Rows& rows, std::int64_t row) {
  if (rows.temperatures.empty()) return 1;
  return rows.temperatures[rows.temperatures.size() == 1 ? 0 : at(row)];
}

std::uint64_t encoded(DType dtype, float x) {
  if (dtype == DType::f32) return bits_of(x);
  return dtype == DType::bf16 ? oracle::encode_bf16(x) : oracle::encode_f16(x);
}

}  // namespace

Results by_oracle(const ScoreCase& one) {
  const std::size_t count = at(one.rows());
  std::vector<float> logprobs(count), raw(count), lse(count), entropy(count), sum_p2(count), log_kept(count),
      ids_logprobs(count * at(one.per_row)), top_logprobs(count * at(one.k));
  std::vector<std::int64_t> argmax(count), rank(count), top_ids(count * at(one.k));
  for (std::int64_t n = 0; n < one.rows(); ++n) {
    if (!one.is_computed(n, true)) continue;
    const std::vector<float> z0 = logits_of(one, n);
    const std::vector<float> whole = transformed(z0, one.transforms, 1);
    const std::vector<float> z = transformed(z0, one.transforms, temperature_of(one, n));
    const oracle::Row row(z, one.mask_of(n));
    const std::int64_t id = one.token_ids[at(n)];
    logprobs[at(n)] = row.logprob(id);
    raw[at(n)] = oracle::Row(whole).logprob(id);
    lse[at(n)] = row.lse();
    entropy[at(n)] = row.entropy();
    sum_p2[at(n)] = row.sum_p2();
    log_kept[at(n)] = row.log_kept();
    argmax[at(n)] = row.argmax();
    rank[at(n)] = row.rank(id);
    for (std::int64_t i = n * one.per_row; i < (n + 1) * one.per_row; ++i) {
      ids_logprobs[at(i)] = one.ids[at(i)] == -100 ? 0.0F : row.logprob(one.ids[at(i)]);
    }
    const std::vector<std::int64_t> order = row.top_k(one.k);
    for (std::int64_t i = 0; i < one.k; ++i) {
      const bool past = order[at(i)] < 0 && row.kind() == oracle::RowKind::ordinary;
      top_ids[at(n * one.k + i)] = order[at(i)];
      top_logprobs[at(n * one.k + i)] = past               ? -std::numeric_limits<float>::infinity()
                                        : order[at(i)] < 0 ? oracle::quiet_nan()
                                                           : row.logprob(order[at(i)]);
    }
  }
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

Results by_oracle(const LogitsCase& one) {
  Output logits{"logits", {}};
  const oracle::DotData& data = one.data;
  for (std::int64_t n = 0; n < one.rows(); ++n) {
    for (std::int64_t v = one.begin; v < one.begin + one.count; ++v) {
      const float z = !one.is_computed(n, false)
                          ? 0.0F
                          : oracle::last_logit({data.hidden_row(n), data.weight_row(v), at(data.shape.cols)},
                                               data.bias_of(v), one.transforms, temperature_of(one, n), one.dtype);
      logits.bits.push_back(encoded(one.dtype, z));
    }
  }
  return {logits};
}

Results by_oracle(const SampleCase& one) {
  const std::size_t count = at(one.rows());
  std::vector<std::int64_t> ids(count);
  std::vector<float> logprobs(count), cut_logprobs(count), log_kept_cut(count);
  for (std::int64_t n = 0; n < one.rows(); ++n) {
    if (!one.is_computed(n, false)) continue;
    const float t = temperature_of(one, n);
    const std::vector<float> z = transformed(logits_of(one, n), one.transforms, t == 0 ? 1 : t);
    const oracle::Sample drawn = t == 0 ? oracle::sample_greedy(z, one.mask_of(n))
                                        : oracle::sample(z, one.mask_of(n), one.cuts[at(n)], one.keys[at(n)]);
    ids[at(n)] = drawn.id;
    logprobs[at(n)] = drawn.logprob;
    cut_logprobs[at(n)] = drawn.logprob_cut;
    log_kept_cut[at(n)] = drawn.log_kept_cut;
  }
  return {output("ids", ids), output("logprobs", logprobs), output("cut_logprobs", cut_logprobs),
          output("log_kept_cut", log_kept_cut)};
}

Results by_oracle(const BackwardCase& one) {
  const test::Gradients gradients = test::expect(one.problem).gradients;
  return {output("dhidden", gradients.dhidden), output("dweight", gradients.dweight), output("dbias", gradients.dbias)};
}

}  // namespace isologit::golden
