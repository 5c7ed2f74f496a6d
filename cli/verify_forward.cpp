// The operators of a forward pass as `isologit verify` runs them.
#include "cli/verify_forward.hpp"

#include <numeric>

namespace isologit::detail::cli {
namespace {

using forward::Report;
using forward::TensorOutput;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// [tokens, heads * dim] as heads.
forward::TensorView heads_of(const Elements& elements, std::int64_t heads) {
  const std::int64_t dim = elements.cols / heads;
  return {elements.bytes.data(), elements.dtype, elements.rows, heads, dim, elements.cols, dim};
}

// Both sequences at once, into y.
forward::AttentionRequest causal_attention(const ForwardCase& one, const TensorOutput& y) {
  forward::AttentionRequest request;
  request.q = heads_of(one.x, kHeads);
  request.kv.keys = heads_of(one.keys, kKvHeads);
  request.kv.values = heads_of(one.values, kKvHeads);
  request.kv.first_keys = kFirstKeys;
  request.query_starts = kQueryStarts;
  request.key_counts = kKeyCounts;
  request.scale = kScale;
  request.y = y;
  return request;
}

// With the same kernel and threads.
forward::Options forward_options(const ScoreOptions& options) {
  forward::Options same;
  same.threads = options.threads;
  same.kernel = options.kernel;
  return same;
}

// The results of calls, as bytes of the operands' type.
class Calls {
 public:
  Calls(const ForwardCase& one, const ScoreOptions& options)
      : dtype_(one.x.dtype), options_(forward_options(options)) {}

  // call(y, options) fills y, [kTokens, heads, dim].
  template <class Call>
  void add(const std::string& name, std::int64_t heads, std::int64_t dim, Call&& call) {
    if (error_) return;
    std::vector<std::uint8_t> y(size(kTokens * heads * dim) * dtype_size(dtype_));
    const Result<Report> report = call(TensorOutput{y.data(), heads * dim, dim}, options_);
    if (!report) error_ = report.error();
    results_.push_back(bits_of_bytes(name, heads * dim, dtype_, y));
  }

  Result<Results> results() {
    if (error_) return tl::unexpected(*error_);
    return std::move(results_);
  }

 private:
  DType dtype_;
  forward::Options options_;
  Results results_;
  std::optional<Error> error_;
};

}  // namespace

ForwardCase make_forward_case(DataFamily family, DType dtype) {
  const auto make = [&](DataFamily of, std::int64_t rows, std::int64_t cols, std::uint32_t use) {
    return make_elements(of, Side::weight, dtype, rows, cols, stream_of(family, dtype, use));
  };
  ForwardCase made;
  made.x = make_elements(family, Side::hidden, dtype, kTokens, kHeads * kDim, stream_of(family, dtype, 20));
  made.a = make(family, kTokens, kHeads * kDim, 21);
  made.b = make(family, kTokens, kHeads * kDim, 22);
  made.weight = make(DataFamily::normal, 1, kDim, 23);
  made.bias = make(family, 1, kDim, 24);
  made.projection = make(family, kFeatures, kHeads * kDim, 25);
  made.keys = make(family, kKeys, kKvHeads * kDim, 26);
  made.values = make(family, kKeys, kKvHeads * kDim, 27);
  return made;
}

Result<Results> linear_results(const ForwardCase& one, const ScoreOptions& options) {
  Calls calls(one, options);
  calls.add("linear", 1, kFeatures, [&](const TensorOutput& y, const forward::Options& with) {
    return forward::linear({one.x.matrix(), one.projection.matrix(), {}, y.data, y.token_stride}, with);
  });
  return calls.results();
}

Result<Results> norm_results(const ForwardCase& one, const ScoreOptions& options) {
  Calls calls(one, options);
  const forward::TensorView x = heads_of(one.x, kHeads);
  for (const bool plus : {false, true}) {
    calls.add(plus ? "rms_norm 1+w" : "rms_norm", kHeads, kDim,
              [&](const TensorOutput& y, const forward::Options& with) {
                return forward::rms_norm({x, one.weight.vector(), kEpsilon, plus, y}, with);
              });
  }
  calls.add("layer_norm", kHeads, kDim, [&](const TensorOutput& y, const forward::Options& with) {
    return forward::layer_norm({x, one.weight.vector(), one.bias.vector(), kEpsilon, y}, with);
  });
  return calls.results();
}

Result<Results> residual_results(const ForwardCase& one, const ScoreOptions& options) {
  Calls calls(one, options);
  for (const bool three : {false, true}) {
    calls.add(three ? "residual of three" : "residual", kHeads, kDim,
              [&](const TensorOutput& y, const forward::Options& with) {
                const forward::TensorView b = three ? heads_of(one.b, kHeads) : forward::TensorView{};
                return forward::residual({heads_of(one.x, kHeads), heads_of(one.a, kHeads), b, kMultiplier, y}, with);
              });
  }
  return calls.results();
}

Result<Results> gate_results(const ForwardCase& one, const ScoreOptions& options) {
  Calls calls(one, options);
  for (const GateName& kind : kGates) {
    calls.add(kind.name, kHeads, kDim, [&](const TensorOutput& y, const forward::Options& with) {
      forward::GateRequest request;
      request.kind = kind.kind;
      request.gate = heads_of(one.x, kHeads);
      request.up = heads_of(one.a, kHeads);
      request.y = y;
      return forward::gate(request, with);
    });
  }
  return calls.results();
}

Result<Results> rotary_results(const ForwardCase& one, const ScoreOptions& options) {
  const auto frequencies = forward::rotary_frequencies(kTheta, kDim - 4);
  if (!frequencies) return tl::unexpected(frequencies.error());
  Calls calls(one, options);
  for (const auto layout : {forward::RotaryLayout::halves, forward::RotaryLayout::pairs}) {
    calls.add(layout == forward::RotaryLayout::halves ? "halves" : "pairs", kHeads, kDim,
              [&](const TensorOutput& y, const forward::Options& with) {
                return forward::rotary({heads_of(one.x, kHeads), kPositions, *frequencies, layout, kFactor, y}, with);
              });
  }
  return calls.results();
}

Result<Results> attention_results(const ForwardCase& one, const ScoreOptions& options) {
  Calls calls(one, options);
  for (const bool more : {false, true}) {
    calls.add(more ? "softcap, window, sinks" : "causal", kHeads, kDim,
              [&](const TensorOutput& y, const forward::Options& with) {
                forward::AttentionRequest request = causal_attention(one, y);
                if (more) {
                  request.softcap = kSoftcap;
                  request.window = kWindow;
                  request.sinks = kSinks;
                }
                return forward::attention(request, with);
              });
  }
  return calls.results();
}

Result<Results> decode_results(const ForwardCase& one, const ScoreOptions& options) {
  const std::size_t size = static_cast<std::size_t>(kHeads * kDim) * dtype_size(one.x.dtype);
  std::vector<std::uint8_t> all(size * kTokens);
  // Blocks of one slot; a token's sequence ends at the token.
  std::array<std::int32_t, kKeys> blocks{};
  std::iota(blocks.begin(), blocks.end(), 0);
  for (std::int64_t token = 0; token < kTokens; ++token) {
    const std::size_t sequence = token < kQueryStarts[1] ? 0 : 1;
    const std::int64_t behind = kQueryStarts[sequence + 1] - 1 - token;
    const std::array<std::int64_t, 2> starts = {0, 1};
    const std::array<std::int64_t, 1> keys = {kKeyCounts[sequence] - behind};
    const auto first = static_cast<std::size_t>(token) * size;
    forward::AttentionRequest single = causal_attention(one, {&all[first], kHeads * kDim, kDim});
    single.q.tokens = 1;
    single.q.data = &one.x.bytes[first];
    single.query_starts = starts;
    single.key_counts = keys;
    single.kv.first_keys = {};
    single.kv.block_table = std::span(blocks).subspan(static_cast<std::size_t>(kFirstKeys[sequence]));
    single.kv.blocks_per_sequence = static_cast<std::int64_t>(single.kv.block_table.size());
    single.kv.block_size = 1;
    single.kv.key_block_stride = single.kv.keys.token_stride;
    single.kv.value_block_stride = single.kv.values.token_stride;
    const auto report = forward::attention(single, forward_options(options));
    if (!report) return tl::unexpected(report.error());
  }
  return Results{bits_of_bytes("causal", kHeads * kDim, one.x.dtype, all)};
}

}  // namespace isologit::detail::cli
