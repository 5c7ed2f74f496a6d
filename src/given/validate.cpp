#include "given/validate.hpp"

#include <array>
#include <string_view>

#include "base/parties.hpp"
#include "base/text.hpp"
#include "sample/validate.hpp"
#include "score/validate.hpp"
#include "tiles/overlap.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::given {
namespace {

using tiles::invalid;

// What both passes take.
template <class Request>
Result<void> check_temperatures(const Request& request) {
  const auto count = static_cast<std::int64_t>(request.temperatures.size());
  if (count > 1 && count != request.logits.rows) {
    return invalid(base::concat("temperatures: ", count, " for ", request.logits.rows,
                                " rows of logits; expected none, one or one per row"));
  }
  return tiles::validate_temperatures(request.temperatures, request.logits.rows, false);
}

// `wanted` names what needs the ids, or is null.
template <class Request>
Result<void> check_ids(const Request& request, std::int64_t vocab, const char* wanted) {
  const std::int64_t rows = request.logits.rows;
  const std::int64_t per_row = request.ids_per_row;
  const auto count = static_cast<std::int64_t>(request.token_ids.size());
  if (auto checked = tiles::validate_per_row("ids_per_row", per_row, rows); !checked) return checked;
  if (per_row < 1) return invalid(base::concat("ids_per_row: ", per_row, "; expected at least 1"));
  if (count == 0 && rows > 0 && wanted != nullptr) {
    return invalid(base::concat("token_ids: none given, but ", wanted, "; give the ids"));
  }
  if (count != 0 && (count % per_row != 0 || count / per_row != rows)) {
    return invalid(base::concat("token_ids: ", count, " for ", rows, " rows of ", per_row, " ids each"));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = request.token_ids[static_cast<std::size_t>(i)];
    if (id == request.ignore_index || (id >= 0 && id < vocab)) continue;
    const std::string place = per_row == 1 ? base::concat(i) : base::concat(i / per_row, ", ", i % per_row);
    return invalid(base::concat("token_ids[", place, "]: ", id, " is outside the vocabulary [0, ", vocab,
                                ") and is not the ignore_index ", request.ignore_index));
  }
  return {};
}

Result<void> check_stride(std::string_view name, const MatrixView& output) {
  if (output.data == nullptr) return {};
  return tiles::validate_stride(name, output.rows, output.cols, output.row_stride);
}

Result<void> check_outputs(const GivenLogitsRequest& request) {
  const std::int64_t rows = request.logits.rows;
  const MatrixView all{request.log_softmax, DType::f32, rows, request.logits.cols, request.log_softmax_row_stride};
  if (auto checked = check_stride("log_softmax", all); !checked) return checked;
  const std::array outputs = {tiles::range_of("logprobs", request.logprobs, 4 * rows * request.ids_per_row),
                              tiles::range_of("lse", request.lse, 4 * rows),
                              tiles::range_of("entropy", request.entropy, 4 * rows),
                              tiles::range_of("log_softmax", all)};
  const std::array inputs = {tiles::range_of("logits", request.logits), tiles::range_of("token_ids", request.token_ids),
                             tiles::range_of("temperatures", request.temperatures)};
  return tiles::check_apart(outputs, inputs);
}

Result<void> check_upstream(const GivenLogitsBackwardRequest& request) {
  const MatrixView& g = request.d_log_softmax;
  if (g.data == nullptr) return {};
  if (request.d_logprobs != nullptr || request.d_lse != nullptr || request.d_entropy != nullptr) {
    return invalid(
        "d_log_softmax: given together with d_logprobs, d_lse or d_entropy; make two calls and add up what they give");
  }
  if (auto checked = tiles::validate_matrix("d_log_softmax", g); !checked) return checked;
  if (g.dtype != DType::f32) return invalid(base::concat("d_log_softmax: ", dtype_name(g.dtype), "; expected f32"));
  if (g.rows == request.logits.rows && g.cols == request.logits.cols) return {};
  return invalid(base::concat("d_log_softmax: shape [", g.rows, ", ", g.cols, "]; expected [", request.logits.rows,
                              ", ", request.logits.cols, "], that of logits"));
}

Result<void> check_outputs(const GivenLogitsBackwardRequest& request) {
  const std::int64_t rows = request.logits.rows;
  const MatrixView all{request.dlogits, DType::f32, rows, request.logits.cols, request.dlogits_row_stride};
  if (request.dlogits == nullptr && rows > 0) return invalid("dlogits: null; expected where to write the gradient");
  if (auto checked = check_stride("dlogits", all); !checked) return checked;
  const std::array outputs = {tiles::range_of("dlogits", all)};
  const std::array inputs = {tiles::range_of("logits", request.logits),
                             tiles::range_of("token_ids", request.token_ids),
                             tiles::range_of("temperatures", request.temperatures),
                             tiles::range_of("d_logprobs", request.d_logprobs, 4 * rows * request.ids_per_row),
                             tiles::range_of("d_lse", request.d_lse, 4 * rows),
                             tiles::range_of("d_entropy", request.d_entropy, 4 * rows),
                             tiles::range_of("d_log_softmax", request.d_log_softmax)};
  return tiles::check_apart(outputs, inputs);
}

template <class Request, class Options>
Result<void> check_inputs(const Request& request, const Options& options, const char* needs_ids) {
  if (auto checked = tiles::validate_matrix("logits", request.logits); !checked) return checked;
  if (auto checked = tiles::validate_threads(options.threads); !checked) return checked;
  if (auto checked = check_temperatures(request); !checked) return checked;
  const base::Parties parties(options.peers, request.logits.cols);
  const std::int64_t vocab = parties.vocab_size();
  if (auto checked = tiles::validate_ids("peers", parties.first_id(), request.logits.cols, vocab); !checked) {
    return checked;
  }
  return check_ids(request, vocab, needs_ids);
}

// A head of nothing but ids and transforms, whose logits are given as hidden.
Result<void> check_head(const Head& head, const MatrixView& logits, const base::Parties& parties) {
  const bool has_weight = head.weight.data != nullptr || head.encoded.data != nullptr ||
                          head.encoded.encoding != Encoding::none || head.lora.a.rows != 0 || head.lora.b.cols != 0;
  if (has_weight || head.bias.data != nullptr || head.bias.size != 0) {
    return invalid("weight: given, or its encoding, a bias or lora, and so are logits, as hidden; expected none");
  }
  if (auto checked = tiles::validate_matrix("hidden", logits); !checked) return checked;
  if (auto checked = tiles::validate_transforms(head.transforms); !checked) return checked;
  const std::int64_t least = parties.several() ? 0 : 1;  // a party may hold no id at all
  if (head.vocab_size < least || head.vocab_size > logits.cols) {
    return invalid(base::concat("vocab_size: ", head.vocab_size, "; expected ", least, " to ", logits.cols,
                                ", the logits of a row in hidden"));
  }
  return tiles::validate_ids("peers", parties.first_id(), head.vocab_size, parties.vocab_size());
}

}  // namespace

Result<void> validate(const Head& head, const ScoreRequest& request, const ScoreOptions& options) {
  const base::Parties parties(options.peers, head.vocab_size);
  if (auto checked = check_head(head, request.hidden, parties); !checked) return checked;
  if (request.logits.data != nullptr) {
    return invalid("logits: asked for, and the logits are given; expected other outputs");
  }
  if (auto checked = score::validate(parties.vocab_size(), request.hidden.cols, head.transforms, request, options);
      !checked) {
    return checked;
  }
  return score::validate_overlap(head, request);
}

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options) {
  const base::Parties parties(options.peers, head.vocab_size);
  if (auto checked = check_head(head, request.hidden, parties); !checked) return checked;
  return sample::validate_request(head, request, options, parties.vocab_size());
}

Result<void> validate(const GivenLogitsRequest& request, const ScoreOptions& options) {
  const char* needs_ids = request.logprobs == nullptr ? nullptr : "logprobs are asked for";
  if (auto checked = check_inputs(request, options, needs_ids); !checked) return checked;
  if (options.peers && request.log_softmax != nullptr) {
    return fail(StatusCode::unsupported,
                "log_softmax: asked for together with peers; expected logprobs, lse or entropy");
  }
  return check_outputs(request);
}

Result<void> validate(const GivenLogitsBackwardRequest& request, const BackwardOptions& options) {
  const char* needs_ids = request.d_logprobs == nullptr ? nullptr : "d_logprobs are";
  if (auto checked = check_inputs(request, options, needs_ids); !checked) return checked;
  if (auto checked = check_upstream(request); !checked) return checked;
  if (options.peers && request.d_log_softmax.data != nullptr) {
    return fail(StatusCode::unsupported,
                "d_log_softmax: given together with peers; expected d_logprobs, d_lse or d_entropy");
  }
  return check_outputs(request);
}

Result<void> validate(const GivenLogitsSampleRequest& request, const SampleRequest& draws,
                      const ScoreOptions& options) {
  const MatrixView& logits = request.logits;
  if (auto checked = tiles::validate_matrix("logits", logits); !checked) return checked;
  if (auto checked = tiles::validate_threads(options.threads); !checked) return checked;
  if (auto checked = sample::validate_draws(draws, logits.cols); !checked) return checked;
  if (options.peers) {
    return fail(StatusCode::unsupported, "peers: given together with logits to draw from; expected none");
  }
  const std::int64_t rows = logits.rows;
  const std::array outputs = {tiles::range_of("ids", request.ids, 8 * rows),
                              tiles::range_of("logprobs", request.logprobs, 4 * rows),
                              tiles::range_of("cut_logprobs", request.cut_logprobs, 4 * rows),
                              tiles::range_of("log_kept_cut", request.log_kept_cut, 4 * rows),
                              tiles::range_of("cut_mask", request.cut_mask, rows * logits.cols)};
  const std::array inputs = {tiles::range_of("logits", logits),
                             tiles::range_of("temperatures", request.temperatures),
                             tiles::range_of("seeds", request.seeds),
                             tiles::range_of("sequence_ids", request.sequence_ids),
                             tiles::range_of("positions", request.positions),
                             tiles::range_of("min_p", request.min_p),
                             tiles::range_of("top_k", request.top_k),
                             tiles::range_of("top_p", request.top_p)};
  return tiles::check_apart(outputs, inputs);
}

}  // namespace isologit::detail::given
