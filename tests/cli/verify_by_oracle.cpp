#include "verify_by_oracle.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "cli/verify_forward.hpp"
#include "golden/results.hpp"
#include "oracle/distribution.hpp"
#include "oracle/forward.hpp"
#include "oracle/logit.hpp"

namespace isologit::test {
namespace {

using detail::cli::Bits;
using detail::cli::bits_of_elements;
using detail::cli::DataFamily;
using detail::cli::Elements;
using detail::cli::ForwardCase;
using detail::cli::HeadCase;
using detail::cli::kDataTypes;
using detail::cli::kHeadShape;
using detail::cli::kSmallShape;
using detail::cli::make_forward_case;
using detail::cli::make_head_case;
using detail::cli::Results;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::vector<double> decoded(const Elements& elements) {
  return oracle::decode_all(elements.dtype, elements.bytes.data(), at(elements.rows * elements.cols));
}

oracle::DotData dot_data(const HeadCase& one) {
  oracle::DotData data;
  data.shape = {one.rows(), one.weight.rows, one.hidden.cols, one.hidden.dtype, one.weight.dtype, one.bias.dtype};
  data.hidden = one.hidden.bytes;
  data.weight = one.weight.bytes;
  data.bias = one.bias.bytes;
  data.hidden_values = decoded(one.hidden);
  data.weight_values = decoded(one.weight);
  data.bias_values = decoded(one.bias);
  return data;
}

// The support as bytes; empty: everything.
std::vector<std::uint8_t> mask_of(const HeadCase& one, std::int64_t rows) {
  std::vector<std::uint8_t> mask;
  if (one.last_id < 0) return mask;
  for (std::int64_t i = 0; i < rows * one.weight.rows; ++i) mask.push_back(i % one.weight.rows < one.last_id ? 1 : 0);
  return mask;
}

template <class Case>
Case golden_case(const HeadCase& one) {
  Case made;
  made.data = dot_data(one);
  made.vocab = one.weight.rows;
  made.transforms = one.transforms;
  made.temperatures = one.temperatures;
  made.token_ids = one.token_ids;
  made.mask = mask_of(one, one.rows());
  made.last_id = one.last_id;
  return made;
}

Results as_bits(const golden::Results& results, const std::string& prefix = "") {
  Results made;
  for (const golden::Output& one : results) made.push_back({prefix + one.name, 0, one.bits});
  return made;
}

Results score(const HeadCase& one) {
  auto made = golden_case<golden::ScoreCase>(one);
  made.k = detail::cli::kTopK;
  Results results = as_bits(golden::by_oracle(made));
  std::erase_if(results, [](const Bits& bits) { return bits.name == "ids_logprobs"; });
  std::vector<float> means;
  for (std::int64_t n = 0; n < one.rows(); ++n) {
    std::vector<float> z;
    for (std::int64_t v = 0; v < made.vocab; ++v) {
      const float logit =
          oracle::logit(made.data.hidden_row(n), made.data.weight_row(v), at(one.hidden.cols), made.data.bias_of(v));
      z.push_back(oracle::transform(logit, one.transforms, one.temperatures[at(n)]));
    }
    means.push_back(one.token_ids[at(n)] == -100 ? 0.0F : oracle::Row(z, made.mask_of(n)).mean_logits());
  }
  const auto place = std::find_if(results.begin(), results.end(), [](const Bits& b) { return b.name == "argmax"; });
  results.insert(place, bits_of_elements("mean_logits", 1, means));
  return results;
}

Results logits(const HeadCase& one) {
  Results results;
  for (const DType dtype : kDataTypes) {
    auto made = golden_case<golden::LogitsCase>(one);
    made.dtype = dtype;
    made.count = made.vocab;
    Results of = as_bits(golden::by_oracle(made));
    of[0].name = "logits as " + std::string(dtype_name(dtype));
    results.push_back(of[0]);
  }
  return results;
}

Results sample(const HeadCase& one) {
  auto made = golden_case<golden::SampleCase>(one);
  for (std::size_t n = 0; n < at(one.rows()); ++n) {
    made.keys.push_back({one.seeds[n], one.sequence_ids[n], one.positions[n]});
    made.cuts.push_back({one.min_p[n], one.top_k[n], one.top_p[n]});
  }
  return as_bits(golden::by_oracle(made));
}

Results gradients(const HeadCase& one) {
  golden::BackwardCase made;
  Problem& problem = made.problem;
  problem.data = dot_data(one);
  problem.transforms = one.transforms;
  problem.temperatures = one.temperatures;
  problem.ids = one.token_ids;
  problem.d_logprobs = one.d_logprobs;
  problem.d_lse = one.d_lse;
  problem.d_entropy = one.d_entropy;
  problem.mask = mask_of(one, one.rows());
  return as_bits(golden::by_oracle(made));
}

Results given_logits(const HeadCase& one) {
  const std::vector<double> values = decoded(one.given);
  const std::int64_t vocab = one.given.cols;
  std::vector<float> logprobs, lse, entropy, all;
  std::array<std::vector<float>, 3> dlogits;  // of logprobs, lse, entropy
  for (std::int64_t n = 0; n < one.rows(); ++n) {
    const float t = one.temperatures[at(n)];
    std::vector<float> z0, z;
    for (std::int64_t v = 0; v < vocab; ++v) {
      z0.push_back(static_cast<float>(values[at(n * vocab + v)]));
      z.push_back(t == 1 ? z0.back() : oracle::temperature(z0.back(), t));
    }
    const oracle::Row row(z);
    const std::int64_t id = one.token_ids[at(n)];
    const bool ignored = id == -100;
    logprobs.push_back(ignored ? 0.0F : row.logprob(id));
    lse.push_back(row.lse());
    entropy.push_back(row.entropy());
    for (std::int64_t v = 0; v < vocab; ++v) all.push_back(row.logprob(v));
    const oracle::RowUpstream upstreams[] = {{{id}, {one.d_logprobs[at(n)]}, 0, 0, 0},
                                             {{}, {}, one.d_lse[at(n)], 0, 0},
                                             {{}, {}, 0, one.d_entropy[at(n)], 0}};
    for (std::size_t i = 0; i < dlogits.size(); ++i) {
      std::vector<float> dz(at(vocab), ignored && i == 0 ? 0.0F : oracle::quiet_nan());
      if (!(ignored && i == 0) && row.kind() == oracle::RowKind::ordinary) {
        dz = oracle::dz_of_row(z0, {}, upstreams[i], {}, t);
      }
      dlogits[i].insert(dlogits[i].end(), dz.begin(), dz.end());
    }
  }
  return {bits_of_elements("logprobs", 1, logprobs),
          bits_of_elements("lse", 1, lse),
          bits_of_elements("entropy", 1, entropy),
          bits_of_elements("log_softmax", vocab, all),
          bits_of_elements("dlogits of logprobs", vocab, dlogits[0]),
          bits_of_elements("dlogits of lse", vocab, dlogits[1]),
          bits_of_elements("dlogits of entropy", vocab, dlogits[2])};
}

template <class Run>
Results on_head_cases(DataFamily family, Run&& run, const detail::cli::HeadShape& shape) {
  Results all;
  for (const DType dtype : kDataTypes) {
    for (Bits& bits : run(make_head_case(family, dtype, shape))) {
      bits.name = std::string(dtype_name(dtype)) + " " + bits.name;
      all.push_back(std::move(bits));
    }
  }
  return all;
}

// The elements of a tensor [tokens, heads, dim], each by one(token, head, d), as numbers of the type.
template <class One>
Bits tensor(DType dtype, const std::string& name, std::int64_t heads, std::int64_t dim, One&& one) {
  Bits made{std::string(dtype_name(dtype)) + " " + name, heads * dim, {}};
  for (std::int64_t t = 0; t < detail::cli::kTokens; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t d = 0; d < dim; ++d) {
        std::uint8_t bytes[4] = {};
        const double value = one(t, h, d);
        oracle::encode(dtype, bytes, 0, value != value ? oracle::quiet_nan() : static_cast<float>(value));
        std::uint32_t bits = 0;
        std::memcpy(&bits, bytes, dtype_size(dtype));
        made.values.push_back(bits);
      }
    }
  }
  return made;
}

// Decoded operands with their places.
struct Operand {
  std::vector<double> values;
  std::int64_t cols;
  double operator()(std::int64_t row, std::int64_t col) const { return values[at(row * cols + col)]; }
  std::vector<double> row(std::int64_t r, std::int64_t first, std::int64_t count) const {
    const auto begin = values.begin() + r * cols + first;
    return {begin, begin + count};
  }
};
Operand operand(const Elements& elements) { return {decoded(elements), elements.cols}; }

using detail::cli::kDim;
using detail::cli::kHeads;

Results linear(DType dtype, const ForwardCase& one) {
  const Operand x = operand(one.x), w = operand(one.projection);
  return {tensor(dtype, "linear", 1, detail::cli::kFeatures, [&](std::int64_t t, std::int64_t, std::int64_t v) {
    return static_cast<double>(
        oracle::logit(&x.values[at(t * x.cols)], &w.values[at(v * w.cols)], at(x.cols), 0, dtype));
  })};
}

Results norms(DType dtype, const ForwardCase& one) {
  const Operand x = operand(one.x), w = operand(one.weight), b = operand(one.bias);
  constexpr double epsilon = static_cast<double>(detail::cli::kEpsilon);
  const oracle::Format format = oracle::format_of(dtype);
  Results results;
  for (const bool plus : {false, true}) {
    results.push_back(tensor(dtype, plus ? "rms_norm 1+w" : "rms_norm", kHeads, kDim,
                             [&](std::int64_t t, std::int64_t h, std::int64_t d) {
                               return oracle::rms_norm(x.row(t, h * kDim, kDim), at(d), w(0, d), epsilon, plus, format);
                             }));
  }
  results.push_back(tensor(dtype, "layer_norm", kHeads, kDim, [&](std::int64_t t, std::int64_t h, std::int64_t d) {
    return oracle::layer_norm(x.row(t, h * kDim, kDim), at(d), w(0, d), b(0, d), epsilon, format);
  }));
  return results;
}

Results residual(DType dtype, const ForwardCase& one) {
  const Operand x = operand(one.x), a = operand(one.a), b = operand(one.b);
  Results results;
  for (const bool three : {false, true}) {
    results.push_back(tensor(dtype, three ? "residual of three" : "residual", kHeads, kDim,
                             [&](std::int64_t t, std::int64_t h, std::int64_t d) {
                               const std::int64_t i = h * kDim + d;
                               return oracle::residual(x(t, i), static_cast<double>(detail::cli::kMultiplier), a(t, i),
                                                       three ? b(t, i) : 0, oracle::format_of(dtype));
                             }));
  }
  return results;
}

Results gates(DType dtype, const ForwardCase& one) {
  const Operand g = operand(one.x), up = operand(one.a);
  constexpr oracle::GateShape shapes[] = {oracle::GateShape::silu, oracle::GateShape::gelu_tanh,
                                          oracle::GateShape::relu_squared, oracle::GateShape::clamped_swish};
  Results results;
  for (std::size_t i = 0; i < std::size(shapes); ++i) {
    results.push_back(
        tensor(dtype, detail::cli::kGates[i].name, kHeads, kDim, [&](std::int64_t t, std::int64_t h, std::int64_t d) {
          const std::int64_t at_col = h * kDim + d;
          return oracle::gate(shapes[i], {}, g(t, at_col), up(t, at_col), oracle::format_of(dtype));
        }));
  }
  return results;
}

Results rotary(DType dtype, const ForwardCase& one) {
  const Operand x = operand(one.x);
  constexpr std::int64_t pairs = (kDim - 4) / 2;
  Results results;
  for (const bool halves : {true, false}) {
    results.push_back(
        tensor(dtype, halves ? "halves" : "pairs", kHeads, kDim, [&](std::int64_t t, std::int64_t h, std::int64_t d) {
          const auto value = [&](std::int64_t i) { return x(t, h * kDim + i); };
          if (d >= 2 * pairs) return value(d) + 0.0;
          const std::int64_t j = halves ? d % pairs : d / 2;
          const std::int64_t one_at = halves ? j : 2 * j, two_at = halves ? j + pairs : 2 * j + 1;
          const double frequency = static_cast<double>(
              oracle::rotary_frequency(static_cast<double>(detail::cli::kTheta), j, 2 * pairs, 1, nullptr));
          const double a = value(one_at), b = value(two_at), m = static_cast<double>(detail::cli::kFactor);
          const std::int64_t position = detail::cli::kPositions[at(t)];
          return d == one_at ? oracle::turned(m, a, -b, position, frequency, oracle::format_of(dtype))
                             : oracle::turned(m, b, a, position, frequency, oracle::format_of(dtype));
        }));
  }
  return results;
}

Results attention(DType dtype, const ForwardCase& one) {
  const Operand q = operand(one.x), k = operand(one.keys), v = operand(one.values);
  Results results;
  for (const bool more : {false, true}) {
    results.push_back(tensor(dtype, more ? "softcap, window, sinks" : "causal", kHeads, kDim,
                             [&](std::int64_t t, std::int64_t h, std::int64_t d) {
                               const std::size_t sequence = t < detail::cli::kQueryStarts[1] ? 0 : 1;
                               const std::int64_t last =
                                   detail::cli::kKeyCounts[sequence] - (detail::cli::kQueryStarts[sequence + 1] - t);
                               const std::int64_t kv_head = h / (kHeads / detail::cli::kKvHeads);
                               oracle::AttentionProblem problem;
                               problem.q = q.row(t, h * kDim, kDim);
                               problem.scale = static_cast<double>(detail::cli::kScale);
                               if (more) {
                                 problem.softcap = static_cast<double>(detail::cli::kSoftcap);
                                 problem.sink = static_cast<double>(detail::cli::kSinks[at(h)]);
                               }
                               for (std::int64_t j = 0; j <= last; ++j) {
                                 if (more && j <= last - detail::cli::kWindow) continue;
                                 const std::int64_t key = detail::cli::kFirstKeys[sequence] + j;
                                 problem.keys.push_back(k.row(key, kv_head * kDim, kDim));
                                 problem.values.push_back(v(key, kv_head * kDim + d));
                               }
                               return oracle::attention(problem, oracle::format_of(dtype));
                             }));
  }
  return results;
}

template <class Run>
Results on_forward_cases(DataFamily family, Run&& run) {
  Results all;
  for (const DType dtype : kDataTypes) {
    for (Bits& bits : run(dtype, make_forward_case(family, dtype))) all.push_back(std::move(bits));
  }
  return all;
}

}  // namespace

Results verify_by_oracle(std::string_view operation, DataFamily family) {
  if (operation == "logits") return on_head_cases(family, logits, kHeadShape);
  if (operation == "score") return on_head_cases(family, score, kHeadShape);
  if (operation == "sample") return on_head_cases(family, sample, kHeadShape);
  if (operation == "gradients") return on_head_cases(family, gradients, kSmallShape);
  if (operation == "given logits") return on_head_cases(family, given_logits, kSmallShape);
  if (operation == "linear") return on_forward_cases(family, linear);
  if (operation == "norms") return on_forward_cases(family, norms);
  if (operation == "residual") return on_forward_cases(family, residual);
  if (operation == "gates") return on_forward_cases(family, gates);
  if (operation == "rotary") return on_forward_cases(family, rotary);
  if (operation == "attention") return on_forward_cases(family, attention);
  return {};
}

}  // namespace isologit::test
