#include "tiles/overlap.hpp"

#include "base/text.hpp"
#include "exact/encoded.hpp"

namespace isologit::detail::tiles {

Range range_of(std::string_view name, const void* data, std::int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {name, begin, data == nullptr ? begin : begin + static_cast<std::uintptr_t>(bytes)};
}

Range range_of(std::string_view name, const MatrixView& matrix) {
  if (matrix.rows == 0 || matrix.data == nullptr) return range_of(name, nullptr, 0);  // whose stride may be any number
  const auto size = static_cast<std::int64_t>(dtype_size(matrix.dtype));
  return range_of(name, matrix.data, matrix.rows, matrix.cols * size, matrix.row_stride * size);
}

Range range_of(std::string_view name, const void* data, std::int64_t rows, std::int64_t bytes, std::int64_t stride) {
  if (rows == 0 || data == nullptr) return range_of(name, nullptr, 0);
  const std::int64_t reach = (rows - 1) * stride;
  Range range = range_of(name, data, bytes);
  (reach < 0 ? range.begin : range.end) += static_cast<std::uintptr_t>(reach);
  return range;
}

Range range_of(std::string_view name, const VectorView& vector) {
  return range_of(name, vector.data, vector.size * static_cast<std::int64_t>(dtype_size(vector.dtype)));
}

namespace {

Range range_of_encoded(const Head& head) {
  const auto size = static_cast<std::int64_t>(exact::encoded_size(head.encoded.encoding));
  const MatrixView& shape = head.weight;
  if (shape.rows == 0 || head.encoded.data == nullptr) return range_of("encoded weight", nullptr, 0);
  return range_of("encoded weight", head.encoded.data, shape.rows, shape.cols * size, shape.row_stride * size);
}

}  // namespace

std::vector<Range> operand_ranges(const Head& head, const MatrixView& hidden, std::span<const float> temperatures,
                                  const Support& support) {
  return {range_of("hidden", hidden),
          range_of("weight", head.weight),
          range_of_encoded(head),
          range_of("weight scales", head.encoded.scales.values),
          range_of("bias", head.bias),
          range_of("lora a", head.lora.a),
          range_of("lora b", head.lora.b),
          range_of("temperatures", temperatures),
          range_of("kept ids", support.kept.ids),
          range_of("kept offsets", support.kept.offsets),
          range_of("banned ids", support.banned.ids),
          range_of("banned offsets", support.banned.offsets),
          range_of("mask", support.mask.data, hidden.rows, head.vocab_size, support.mask.row_stride)};
}

Result<void> check_apart(std::span<const Range> outputs, std::span<const Range> inputs) {
  const auto overlap = [](const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; };
  const auto refuse = [](std::string message) { return fail(StatusCode::invalid_argument, std::move(message)); };
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (const Range& input : inputs) {
      if (overlap(outputs[i], input)) {
        return refuse(base::concat(outputs[i].name, ": the output buffer overlaps the input ", input.name));
      }
    }
    for (std::size_t j = i + 1; j < outputs.size(); ++j) {
      if (overlap(outputs[i], outputs[j])) {
        return refuse(base::concat(outputs[i].name, ": the output buffer overlaps that of ", outputs[j].name));
      }
    }
  }
  return {};
}

}  // namespace isologit::detail::tiles
