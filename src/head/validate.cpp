#include "head/validate.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace isologit::head {
namespace {

Result<void> invalid(std::string message) { return fail(StatusCode::invalid_argument, std::move(message)); }

bool positive_and_finite(float x) { return x > 0 && std::isfinite(x); }

// Each asks for a real thread.
constexpr int kMostThreads = 1024;

// rows * stride * element size must stay far from overflow.
constexpr std::int64_t kMostElements = std::numeric_limits<std::int64_t>::max() / 16;

Result<void> check_matrix(std::string_view name, const MatrixView& matrix) {
  if (matrix.rows < 0 || matrix.cols < 1) {
    return invalid(
        fmt::format("{}: shape [{}, {}]; expected at least 0 rows and 1 column", name, matrix.rows, matrix.cols));
  }
  if (matrix.data == nullptr && matrix.rows > 0) return invalid(fmt::format("{}: data is null", name));
  const std::int64_t stride = matrix.row_stride < 0 ? -(matrix.row_stride + 1) : matrix.row_stride;
  if (matrix.cols > kMostElements || (matrix.rows > 0 && stride > (kMostElements - matrix.cols) / matrix.rows)) {
    return invalid(fmt::format("{}: {} rows at a stride of {} elements overflow the address space", name, matrix.rows,
                               matrix.row_stride));
  }
  return {};
}

Result<void> check_transforms(const Transforms& transforms) {
  if (transforms.has_softcap && !positive_and_finite(transforms.softcap)) {
    return invalid(fmt::format("softcap: {}; expected a finite number above 0", transforms.softcap));
  }
  if (transforms.scale_kind == ScaleKind::multiply && (transforms.scale == 0 || !std::isfinite(transforms.scale))) {
    return invalid(fmt::format("scale: {}; expected a finite number other than 0", transforms.scale));
  }
  if (transforms.scale_kind == ScaleKind::divide && !positive_and_finite(transforms.scale)) {
    return invalid(fmt::format("scale divisor: {}; expected a finite number above 0", transforms.scale));
  }
  return {};
}

Result<void> check_head(const Head& head) {
  if (auto checked = check_matrix("weight", head.weight); !checked) return checked;
  if (head.vocab_size < 1 || head.vocab_size > head.weight.rows) {
    return invalid(
        fmt::format("vocab_size: {}; expected 1 to {}, the weight's rows", head.vocab_size, head.weight.rows));
  }
  if (head.bias.data != nullptr && head.bias.size < head.vocab_size) {
    return invalid(fmt::format("bias: {} elements for a vocabulary of {}", head.bias.size, head.vocab_size));
  }
  if (head.bias.data == nullptr && head.bias.size != 0) return invalid("bias: data is null but its size is not 0");
  return check_transforms(head.transforms);
}

Result<void> check_rows(const Head& head, const ScoreRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const auto ids = static_cast<std::int64_t>(request.token_ids.size());
  if (ids == 0 && rows > 0 && (request.logprobs != nullptr || request.rank != nullptr)) {
    return invalid("token_ids: none given, but logprobs or rank asked for");
  }
  if (ids != 0 && ids != rows) return invalid(fmt::format("token_ids: {} for {} hidden rows", ids, rows));
  for (std::int64_t i = 0; i < ids; ++i) {
    const std::int64_t id = request.token_ids[static_cast<std::size_t>(i)];
    if (id != request.ignore_index && (id < 0 || id >= head.vocab_size)) {
      return invalid(fmt::format("token_ids[{}]: {} is outside the vocabulary [0, {}) and is not the ignore_index {}",
                                 i, id, head.vocab_size, request.ignore_index));
    }
  }
  const auto temperatures = static_cast<std::int64_t>(request.temperatures.size());
  if (temperatures > 1 && temperatures != rows) {
    return invalid(
        fmt::format("temperatures: {} for {} hidden rows; expected none, one or one per row", temperatures, rows));
  }
  for (std::int64_t i = 0; i < temperatures; ++i) {
    const float t = request.temperatures[static_cast<std::size_t>(i)];
    if (!positive_and_finite(t)) {
      return invalid(fmt::format("temperatures[{}]: {}; expected a finite number above 0", i, t));
    }
  }
  return {};
}

struct Range {
  std::string_view name;
  std::uintptr_t begin;
  std::uintptr_t end;
};

Range range_of(std::string_view name, const void* data, std::int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {name, begin, data == nullptr ? begin : begin + static_cast<std::uintptr_t>(bytes)};
}

Range range_of(std::string_view name, const MatrixView& matrix) {
  const auto size = static_cast<std::int64_t>(dtype_size(matrix.dtype));
  if (matrix.rows == 0) return range_of(name, nullptr, 0);
  const std::int64_t reach = (matrix.rows - 1) * matrix.row_stride * size;
  Range range = range_of(name, matrix.data, matrix.cols * size);
  (reach < 0 ? range.begin : range.end) += static_cast<std::uintptr_t>(reach);
  return range;
}

Result<void> check_overlap(const Head& head, const ScoreRequest& request) {
  const std::int64_t rows = request.hidden.rows;
  const std::array outputs = {range_of("logprobs", request.logprobs, 4 * rows), range_of("lse", request.lse, 4 * rows),
                              range_of("entropy", request.entropy, 4 * rows),
                              range_of("argmax", request.argmax, 8 * rows), range_of("rank", request.rank, 8 * rows)};
  const std::array inputs = {
      range_of("hidden", request.hidden), range_of("weight", head.weight),
      range_of("bias", head.bias.data, head.bias.size * static_cast<std::int64_t>(dtype_size(head.bias.dtype))),
      range_of("token_ids", request.token_ids.data(), static_cast<std::int64_t>(request.token_ids.size_bytes())),
      range_of("temperatures", request.temperatures.data(),
               static_cast<std::int64_t>(request.temperatures.size_bytes()))};
  const auto overlap = [](const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; };
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (const Range& input : inputs) {
      if (overlap(outputs[i], input)) {
        return invalid(fmt::format("{}: the output buffer overlaps the input {}", outputs[i].name, input.name));
      }
    }
    for (std::size_t j = i + 1; j < outputs.size(); ++j) {
      if (overlap(outputs[i], outputs[j])) {
        return invalid(fmt::format("{}: the output buffer overlaps that of {}", outputs[i].name, outputs[j].name));
      }
    }
  }
  return {};
}

}  // namespace

Result<void> validate(const Head& head, const ScoreRequest& request, const ScoreOptions& options) {
  if (auto checked = check_head(head); !checked) return checked;
  if (auto checked = check_matrix("hidden", request.hidden); !checked) return checked;
  if (request.hidden.cols != head.weight.cols) {
    return invalid(
        fmt::format("hidden: rows of {} elements, but the weight's have {}", request.hidden.cols, head.weight.cols));
  }
  if (options.threads < 0 || options.threads > kMostThreads) {
    return invalid(fmt::format("threads: {}; expected 0 (automatic) to {}", options.threads, kMostThreads));
  }
  if (auto checked = check_rows(head, request); !checked) return checked;
  return check_overlap(head, request);
}

}  // namespace isologit::head
