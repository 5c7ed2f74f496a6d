// The operators of a forward pass as `isologit verify` runs them.
#include "cli/verify_forward.hpp"

#include <fmt/format.h>

#include "cli/verify_results.hpp"

namespace isologit::detail::cli {
namespace {

using forward::Report;
using forward::TensorOutput;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

// The results of calls, as bytes of the operands' type.
class Calls {
 public:
  explicit Calls(const ScoreOptions& options) : options_(forward_options(options)) {}

  // call(y, options) fills y, [tokens, heads, dim].
  template <class Call>
  void add(const std::string& name, DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim,
           Call&& call) {
    if (error_) return;
    std::vector<std::uint8_t> y(size(tokens * heads * dim) * dtype_size(dtype));
    const Result<Report> report = call(TensorOutput{y.data(), heads * dim, dim}, options_);
    if (!report) error_ = report.error();
    results_.push_back(bits_of_bytes(fmt::format("{} {}", dtype_name(dtype), name), heads * dim, dtype, y));
  }

  Result<Results> results() {
    if (error_) return tl::unexpected(*error_);
    return std::move(results_);
  }

 private:
  forward::Options options_;
  Results results_;
  std::optional<Error> error_;
};

}  // namespace

forward::TensorView heads_of(const Elements& elements, std::int64_t heads) {
  const std::int64_t dim = elements.cols / heads;
  return {elements.bytes.data(), elements.dtype, elements.rows, heads, dim, elements.cols, dim};
}

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

forward::Options forward_options(const ScoreOptions& options) {
  forward::Options same;
  same.threads = options.threads;
  same.kernel = options.kernel;
  return same;
}

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

Result<Results> linear_results(DataFamily family, const ScoreOptions& options) {
  Calls calls(options);
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(family, dtype);
    calls.add("linear", dtype, kTokens, 1, kFeatures, [&](const TensorOutput& y, const forward::Options& with) {
      return forward::linear({one.x.matrix(), one.projection.matrix(), {}, y.data, y.token_stride}, with);
    });
  }
  return calls.results();
}

Result<Results> norm_results(DataFamily family, const ScoreOptions& options) {
  Calls calls(options);
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(family, dtype);
    const forward::TensorView x = heads_of(one.x, kHeads);
    for (const bool plus : {false, true}) {
      calls.add(plus ? "rms_norm 1+w" : "rms_norm", dtype, kTokens, kHeads, kDim,
                [&](const TensorOutput& y, const forward::Options& with) {
                  return forward::rms_norm({x, one.weight.vector(), kEpsilon, plus, y}, with);
                });
    }
    calls.add("layer_norm", dtype, kTokens, kHeads, kDim, [&](const TensorOutput& y, const forward::Options& with) {
      return forward::layer_norm({x, one.weight.vector(), one.bias.vector(), kEpsilon, y}, with);
    });
  }
  return calls.results();
}

Result<Results> residual_results(DataFamily family, const ScoreOptions& options) {
  Calls calls(options);
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(family, dtype);
    for (const bool three : {false, true}) {
      calls.add(three ? "residual of three" : "residual", dtype, kTokens, kHeads, kDim,
                [&](const TensorOutput& y, const forward::Options& with) {
                  const forward::TensorView b = three ? heads_of(one.b, kHeads) : forward::TensorView{};
                  return forward::residual({heads_of(one.x, kHeads), heads_of(one.a, kHeads), b, kMultiplier, y}, with);
                });
    }
  }
  return calls.results();
}

Result<Results> gate_results(DataFamily family, const ScoreOptions& options) {
  Calls calls(options);
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(family, dtype);
    for (const GateName& kind : kGates) {
      calls.add(kind.name, dtype, kTokens, kHeads, kDim, [&](const TensorOutput& y, const forward::Options& with) {
        forward::GateRequest request;
        request.kind = kind.kind;
        request.gate = heads_of(one.x, kHeads);
        request.up = heads_of(one.a, kHeads);
        request.y = y;
        return forward::gate(request, with);
      });
    }
  }
  return calls.results();
}

Result<Results> rotary_results(DataFamily family, const ScoreOptions& options) {
  const auto frequencies = forward::rotary_frequencies(kTheta, kDim - 4);
  if (!frequencies) return tl::unexpected(frequencies.error());
  Calls calls(options);
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(family, dtype);
    for (const auto layout : {forward::RotaryLayout::halves, forward::RotaryLayout::pairs}) {
      calls.add(layout == forward::RotaryLayout::halves ? "halves" : "pairs", dtype, kTokens, kHeads, kDim,
                [&](const TensorOutput& y, const forward::Options& with) {
                  return forward::rotary({heads_of(one.x, kHeads), kPositions, *frequencies, layout, kFactor, y}, with);
                });
    }
  }
  return calls.results();
}

Result<Results> attention_results(DataFamily family, const ScoreOptions& options) {
  Calls calls(options);
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(family, dtype);
    for (const bool more : {false, true}) {
      calls.add(more ? "softcap, window, sinks" : "causal", dtype, kTokens, kHeads, kDim,
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
  }
  return calls.results();
}

}  // namespace isologit::detail::cli
