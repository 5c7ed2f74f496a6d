#include "tiles/validate.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "backward/upstream.hpp"
#include "base/parties.hpp"
#include "base/text.hpp"
#include "isologit/score.hpp"
#include "tiles/overlap.hpp"
#include "tiles/support.hpp"

namespace isologit::detail::backward {
namespace {

using tiles::invalid;
using tiles::kMostElements;

// What the head, the hidden states and the temperatures must satisfy for any use.
Result<void> check_operands(const Head& head, const BackwardRequest& request, const BackwardOptions& options) {
  const base::Parties parties(options.peers, head.vocab_size);
  const Shard own{head, parties.first_id()};
  if (auto checked = tiles::validate_shard(own, parties.vocab_size(), head.weight.cols, head.transforms); !checked) {
    return checked;
  }
  if (auto checked = tiles::validate_hidden(request.hidden, head.weight.cols); !checked) return checked;
  if (auto checked = tiles::validate_threads(options.threads); !checked) return checked;
  return tiles::validate_temperatures(request.temperatures, request.hidden.rows, false);
}

Result<void> check_ids(std::int64_t vocab_size, const BackwardRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const auto ids = static_cast<std::int64_t>(request.token_ids.size());
  if (auto checked = tiles::validate_per_row("ids_per_row", request.ids_per_row, rows); !checked) return checked;
  if (request.ids_per_row < 1) {
    return invalid(base::concat("ids_per_row: ", request.ids_per_row, "; expected at least 1"));
  }
  if (ids == 0 && rows > 0 && request.d_logprobs != nullptr) {
    return invalid("token_ids: none given, but d_logprobs is; give the ids the logprobs were of");
  }
  if (ids != 0 && (ids % request.ids_per_row != 0 || ids / request.ids_per_row != rows)) {
    return invalid(
        base::concat("token_ids: ", ids, " for ", rows, " hidden rows of ", request.ids_per_row, " ids each"));
  }
  for (std::int64_t i = 0; i < ids; ++i) {
    const std::int64_t id = request.token_ids[static_cast<std::size_t>(i)];
    if (id != request.ignore_index && (id < 0 || id >= vocab_size)) {
      return invalid(base::concat("token_ids[", i, "]: ", id, " is outside the vocabulary [0, ", vocab_size,
                                  ") and is not the ignore_index ", request.ignore_index));
    }
  }
  return {};
}

Result<void> check_upstream(const Head& head, const BackwardRequest& request) {
  const MatrixView& g = request.d_logits;
  if (g.data == nullptr) return {};
  if (request.d_logprobs != nullptr || request.d_lse != nullptr || request.d_entropy != nullptr ||
      request.d_mean_logits != nullptr) {
    return invalid(
        "d_logits: given together with d_logprobs, d_lse, d_entropy or d_mean_logits; make two calls, the second with "
        "accumulate set");
  }
  if (!tiles::SupportReader(request.support, head.vocab_size).is_everything()) {
    return invalid("d_logits: given together with a support, which logits do not have; expected one or the other");
  }
  if (g.dtype != DType::f32) return invalid(base::concat("d_logits: ", dtype_name(g.dtype), "; expected f32"));
  if (g.rows != request.hidden.rows || g.cols != head.vocab_size) {
    return invalid(base::concat("d_logits: shape [", g.rows, ", ", g.cols, "]; expected [", request.hidden.rows, ", ",
                                head.vocab_size, "], hidden rows by vocab_size"));
  }
  const std::int64_t stride = g.row_stride < 0 ? -(g.row_stride + 1) : g.row_stride;
  if (g.rows > 0 && stride > (kMostElements - g.cols) / g.rows) {
    return invalid(base::concat("d_logits: ", g.rows, " rows at a stride of ", g.row_stride,
                                " elements overflow the address space"));
  }
  return {};
}

Result<void> check_summaries(const BackwardRequest& request) {
  const auto count = static_cast<std::int64_t>(request.summaries.size());
  if (count != 0 && count != request.hidden.rows) {
    return invalid(base::concat("summaries: ", count, " for ", request.hidden.rows, " hidden rows"));
  }
  const auto is_sum = [](double sum, double error) {
    return sum >= 0 && std::isfinite(sum) && error >= 0 && error <= (sum + 1) * 0x1p-30;
  };
  for (std::size_t i = 0; i < request.summaries.size(); ++i) {
    const RowSummary& row = request.summaries[i];
    if (std::isnan(row.top)) continue;
    const bool is_f32 = std::fabs(row.top) <= std::numeric_limits<float>::max() &&
                        static_cast<double>(static_cast<float>(row.top)) == row.top;
    if (is_f32 && is_sum(row.mass, row.mass_error) && is_sum(row.moment, row.moment_error)) continue;
    return invalid(base::concat("summaries[", i,
                                "]: not what score writes; expected a top that is NaN or an f32, "
                                "and sums and small errors from 0 up"));
  }
  return {};
}

Result<void> check_own_rows(const std::optional<Peers>& peers, std::int64_t rows) {
  if (!peers || !peers->own_rows) return {};
  const OwnRows& own = *peers->own_rows;
  if (own.party < 0 || own.first_row < 0 || own.last_row < own.first_row || own.last_row > rows) {
    return invalid(base::concat("peers: party is ", own.party, ", first_row ", own.first_row, " and last_row ",
                                own.last_row, "; expected a number from 0 up, and rows of hidden [0, ", rows, ")"));
  }
  return {};
}

tiles::Range range_of(std::string_view name, const GradientOutput& output, std::int64_t rows, std::int64_t columns) {
  return tiles::range_of(name, MatrixView{output.data, output.dtype, rows, columns, rows == 1 ? 0 : output.row_stride});
}

Result<void> check_stride(std::string_view name, const GradientOutput& output, std::int64_t rows,
                          std::int64_t columns) {
  if (output.data == nullptr || rows == 0) return {};
  if (output.row_stride < columns) {
    return invalid(base::concat(name, ": row_stride ", output.row_stride, "; expected at least ", columns,
                                ", the elements of a row"));
  }
  if (output.row_stride > kMostElements / rows) {
    return invalid(base::concat(name, ": ", rows, " rows at a stride of ", output.row_stride,
                                " elements overflow the address space"));
  }
  return {};
}

Result<void> check_outputs(const Head& head, const BackwardRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const std::int64_t columns = head.weight.cols;
  const std::int64_t rank = head.lora.a.rows;
  const Encoding encoding = head.encoded.encoding;
  if (request.dweight.data != nullptr && encoding != Encoding::none && encoding != Encoding::f64) {
    return fail(StatusCode::unsupported,
                base::concat("dweight: the weight is ", encoding_name(encoding),
                             ", whose numbers are fixed; expected no output for its gradient (a frozen weight)"));
  }
  if (rank == 0 && (request.dlora_a.data != nullptr || request.dlora_b.data != nullptr)) {
    return invalid("dlora_a or dlora_b: given, but the head has no low-rank addition; expected neither");
  }
  if (auto checked = check_stride("dhidden", request.dhidden, rows, columns); !checked) return checked;
  if (auto checked = check_stride("dweight", request.dweight, head.vocab_size, columns); !checked) return checked;
  if (auto checked = check_stride("dlora_a", request.dlora_a, rank, columns); !checked) return checked;
  if (auto checked = check_stride("dlora_b", request.dlora_b, head.vocab_size, rank); !checked) return checked;
  const auto floats = [](std::int64_t count) { return count * static_cast<std::int64_t>(sizeof(float)); };
  const std::array outputs = {range_of("dhidden", request.dhidden, rows, columns),
                              range_of("dweight", request.dweight, head.vocab_size, columns),
                              range_of("dbias", request.dbias, 1, head.vocab_size),
                              range_of("dlora_a", request.dlora_a, rank, columns),
                              range_of("dlora_b", request.dlora_b, head.vocab_size, rank)};
  std::vector<tiles::Range> inputs = tiles::operand_ranges(head, request.hidden, request.temperatures, request.support);
  inputs.insert(inputs.end(),
                {tiles::range_of("token_ids", request.token_ids),
                 tiles::range_of("d_logprobs", request.d_logprobs, floats(rows * request.ids_per_row)),
                 tiles::range_of("d_lse", request.d_lse, floats(rows)),
                 tiles::range_of("d_entropy", request.d_entropy, floats(rows)),
                 tiles::range_of("d_mean_logits", request.d_mean_logits, floats(rows)),
                 tiles::range_of("d_logits", request.d_logits), tiles::range_of("summaries", request.summaries)});
  return tiles::check_apart(outputs, inputs);
}

}  // namespace

Result<void> validate(const Head& head, const BackwardRequest& request, const BackwardOptions& options) {
  if (auto checked = check_operands(head, request, options); !checked) return checked;
  if (options.peers && request.d_logits.data != nullptr) {
    return invalid("d_logits: given together with peers; each party can make a call of its own with its ids' d_logits");
  }
  const std::int64_t vocab_size = base::Parties(options.peers, head.vocab_size).vocab_size();
  if (auto checked = check_ids(vocab_size, request); !checked) return checked;
  const std::int64_t rows = request.hidden.rows;
  if (auto checked = tiles::validate_support(request.support, rows, vocab_size); !checked) return checked;
  if (auto checked = check_upstream(head, request); !checked) return checked;
  if (auto checked = check_summaries(request); !checked) return checked;
  if (auto checked = check_own_rows(options.peers, rows); !checked) return checked;
  return check_outputs(head, request);
}

}  // namespace isologit::detail::backward
