#include "tiles/validate.hpp"

#include <cmath>

#include "base/text.hpp"
#include "tiles/transforms.hpp"

namespace isologit::detail::tiles {
namespace {

bool positive_and_finite(float x) { return x > 0 && std::isfinite(x); }

// Each asks for a real thread.
constexpr int kMostThreads = 1024;

// No memory holds more; a few thousand bytes for each of these stay far from overflow too.
constexpr std::int64_t kMostRows = std::int64_t{1} << 40;
constexpr std::int64_t kMostPerRow = std::int64_t{1} << 31;

}  // namespace

Result<void> invalid(std::string message) { return fail(StatusCode::invalid_argument, std::move(message)); }

namespace {

Result<void> check_shape(std::string_view name, const MatrixView& matrix) {
  if (matrix.rows < 0 || matrix.cols < 1) {
    return invalid(
        base::concat(name, ": shape [", matrix.rows, ", ", matrix.cols, "]; expected at least 0 rows and 1 column"));
  }
  if (matrix.rows > kMostRows || matrix.cols > kMostRows) {
    return invalid(base::concat(name, ": shape [", matrix.rows, ", ", matrix.cols, "]; expected at most ", kMostRows,
                                " rows and columns"));
  }
  const std::int64_t stride = matrix.row_stride < 0 ? -(matrix.row_stride + 1) : matrix.row_stride;
  if (matrix.rows > 0 && stride > (kMostElements - matrix.cols) / matrix.rows) {
    return invalid(base::concat(name, ": ", matrix.rows, " rows at a stride of ", matrix.row_stride,
                                " elements overflow the address space"));
  }
  return {};
}

}  // namespace

Result<void> validate_matrix(std::string_view name, const MatrixView& matrix) {
  if (auto checked = check_shape(name, matrix); !checked) return checked;
  if (static_cast<int>(matrix.dtype) > static_cast<int>(DType::f32)) {
    return invalid(
        base::concat(name, ": unknown dtype ", static_cast<int>(matrix.dtype), "; expected bf16, f16 or f32"));
  }
  if (matrix.data == nullptr && matrix.rows > 0) return invalid(base::concat(name, ": data is null"));
  return {};
}

Result<void> validate_hidden(const MatrixView& hidden, std::int64_t cols) {
  if (auto checked = validate_matrix("hidden", hidden); !checked) return checked;
  if (hidden.cols == cols) return {};
  return invalid(base::concat("hidden: rows of ", hidden.cols, " elements, but the weight's have ", cols));
}

Result<void> validate_transforms(const Transforms& transforms) {
  if (transforms.has_softcap && !positive_and_finite(transforms.softcap)) {
    return invalid(base::concat("softcap: ", transforms.softcap, "; expected a finite number above 0"));
  }
  if (transforms.scale_kind == ScaleKind::multiply && (transforms.scale == 0 || !std::isfinite(transforms.scale))) {
    return invalid(base::concat("scale: ", transforms.scale, "; expected a finite number other than 0"));
  }
  if (transforms.scale_kind == ScaleKind::divide && !positive_and_finite(transforms.scale)) {
    return invalid(base::concat("scale divisor: ", transforms.scale, "; expected a finite number above 0"));
  }
  if (transforms.order != TransformOrder::softcap_first && transforms.order != TransformOrder::scale_first) {
    return invalid(base::concat("transform order: ", static_cast<int>(transforms.order),
                                "; expected softcap_first or scale_first"));
  }
  return {};
}

Result<void> validate_temperatures(std::span<const float> temperatures, std::int64_t rows, bool zero) {
  const auto count = static_cast<std::int64_t>(temperatures.size());
  if (count > 1 && count != rows) {
    return invalid(base::concat("temperatures: ", count, " for ", rows, " rows; expected none, one or one per row"));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const float t = temperatures[static_cast<std::size_t>(i)];
    if (!positive_and_finite(t) && !(zero && t == 0)) {
      return invalid(
          base::concat("temperatures[", i, "]: ", t, "; expected a finite number above 0", zero ? ", or 0" : ""));
    }
  }
  return {};
}

Result<void> validate_threads(int threads) {
  if (threads >= 0 && threads <= kMostThreads) return {};
  return invalid(base::concat("threads: ", threads, "; expected 0 (automatic) to ", kMostThreads));
}

Result<void> validate_per_row(std::string_view name, std::int64_t per_row, std::int64_t rows) {
  if (per_row >= 0 && per_row <= kMostPerRow && (rows == 0 || per_row <= kMostElements / rows)) return {};
  return invalid(base::concat(name, ": ", per_row, " for each of ", rows,
                              " rows; expected 0 or more, within the address "
                              "space"));
}

Result<void> validate_stride(std::string_view name, std::int64_t rows, std::int64_t cols, std::int64_t row_stride) {
  if (rows <= 1 || (row_stride >= cols && row_stride <= (kMostElements - cols) / rows)) return {};
  return invalid(base::concat(name, ": a row stride of ", row_stride, " elements for ", rows, " rows of ", cols,
                              "; expected at least ", cols, ", within the address space"));
}

Result<void> validate_ids(std::string_view name, std::int64_t first, std::int64_t count, std::int64_t vocab_size) {
  if (first >= 0 && count >= 0 && vocab_size >= count && first <= vocab_size - count) return {};
  return invalid(base::concat(name, ": ", count, " ids from ", first, " on; expected ids of the vocabulary [0, ",
                              vocab_size, ")"));
}

namespace {

Result<void> validate_lora(const Head& head) {
  const Lora& lora = head.lora;
  if (lora.a.rows == 0 && lora.b.cols == 0) return {};
  if (auto checked = validate_matrix("lora a", lora.a); !checked) return checked;
  if (lora.a.cols != head.weight.cols || lora.b.cols != lora.a.rows || lora.b.rows < head.vocab_size) {
    return invalid(base::concat("lora: a of shape [", lora.a.rows, ", ", lora.a.cols, "] and b of [", lora.b.rows, ", ",
                                lora.b.cols, "]; expected [r, ", head.weight.cols, "] and [V, r], V at least ",
                                head.vocab_size, ", the vocabulary's size"));
  }
  if (auto checked = validate_matrix("lora b", lora.b); !checked) return checked;
  if (!std::isfinite(lora.scale)) {
    return invalid(base::concat("lora scale: ", lora.scale, "; expected a finite number"));
  }
  return {};
}

std::int64_t blocks_of(std::int64_t size, std::int64_t block) {
  return block == 0 || size == 0 ? 1 : (size - 1) / block + 1;
}

Result<void> check_scales(const Head& head) {
  const F8Scales& scales = head.encoded.scales;
  if (scales.values.data == nullptr) {
    return invalid(
        base::concat("f8_scales: none; a weight of ", encoding_name(head.encoded.encoding),
                     " stands for its values times its scales, expected one for all, or one a row or a block"));
  }
  if (auto checked = validate_matrix("f8_scales", scales.values); !checked) return checked;
  const bool in_range =
      scales.block_rows >= 0 && scales.block_cols >= 0 && scales.first_row >= 0 && scales.first_row <= kMostRows;
  if (!in_range) {
    return invalid(base::concat("f8_scales: blocks of [", scales.block_rows, ", ", scales.block_cols, "] from row ",
                                scales.first_row, " on; expected 0 or more, within the address space"));
  }
  if (head.encoded.product > F8Product::bf16) {
    return invalid(base::concat("f8_product: ", static_cast<int>(head.encoded.product), "; expected real or bf16"));
  }
  const std::int64_t rows = blocks_of(scales.first_row + head.weight.rows, scales.block_rows);
  const std::int64_t cols = blocks_of(head.weight.cols, scales.block_cols);
  // Those of the rows after a part of a weight may follow.
  const bool enough = scales.block_rows == 0 ? scales.values.rows == rows : scales.values.rows >= rows;
  if (enough && scales.values.cols == cols) return {};
  return invalid(base::concat("f8_scales: shape [", scales.values.rows, ", ", scales.values.cols, "]; expected [", rows,
                              ", ", cols, "] for a weight of [", head.weight.rows, ", ", head.weight.cols,
                              "] in blocks of [", scales.block_rows, ", ", scales.block_cols, "]"));
}

Result<void> validate_weight(const Head& head) {
  const EncodedWeight& encoded = head.encoded;
  if (encoded.encoding == Encoding::none) {
    if (encoded.data != nullptr || encoded.scales.values.data != nullptr) {
      return invalid("encoded weight: data or scales without an encoding; expected f64, f8_e4m3 or f8_e5m2");
    }
    return validate_matrix("weight", head.weight);
  }
  if (static_cast<int>(encoded.encoding) > static_cast<int>(Encoding::f8_e5m2)) {
    return invalid(base::concat("encoded weight: unknown encoding ", static_cast<int>(encoded.encoding),
                                "; expected f64, f8_e4m3 or f8_e5m2"));
  }
  if (head.weight.data != nullptr)
    return invalid(base::concat("weight: data is given, and so is an encoding, ", encoding_name(encoded.encoding),
                                "; expected one of them"));
  if (auto checked = check_shape("weight", head.weight); !checked) return checked;
  if (encoded.data == nullptr && head.weight.rows > 0) return invalid("encoded weight: data is null");
  if (encoded.encoding != Encoding::f64) return check_scales(head);
  if (encoded.scales.values.data == nullptr) return {};
  return invalid("f8_scales: given with an encoding of f64, which has none");
}

}  // namespace

Result<void> validate_shard(const Shard& shard, std::int64_t vocab_size, std::int64_t cols,
                            const Transforms& transforms) {
  const Head& head = shard.head;
  if (auto checked = validate_weight(head); !checked) return checked;
  // A party may hold no id at all.
  const std::int64_t least = head.vocab_size == vocab_size ? 1 : 0;
  if (head.vocab_size < least || head.vocab_size > head.weight.rows) {
    return invalid(base::concat("vocab_size: ", head.vocab_size, "; expected ", least, " to ", head.weight.rows,
                                ", the weight's rows"));
  }
  if (head.bias.data != nullptr && head.bias.size < head.vocab_size) {
    return invalid(base::concat("bias: ", head.bias.size, " elements for a vocabulary of ", head.vocab_size));
  }
  if (head.bias.size > kMostElements) {
    return invalid(base::concat("bias: ", head.bias.size, " elements; expected as many as the weight has rows"));
  }
  if (head.bias.data == nullptr && head.bias.size != 0) return invalid("bias: data is null but its size is not 0");
  if (auto checked = validate_transforms(head.transforms); !checked) return checked;
  if (auto checked = validate_lora(head); !checked) return checked;
  if (head.weight.cols != cols) {
    return invalid(base::concat("weight: rows of ", head.weight.cols, " elements; expected ", cols));
  }
  if (auto checked = validate_ids("shard", shard.first_id, head.vocab_size, vocab_size); !checked) return checked;
  const Transforms& own = head.transforms;
  const bool same = own.has_softcap == transforms.has_softcap && own.scale_kind == transforms.scale_kind &&
                    (!own.has_softcap || own.softcap == transforms.softcap) &&
                    (own.scale_kind == ScaleKind::none || own.scale == transforms.scale) &&
                    scales_before_softcap(own) == scales_before_softcap(transforms);
  if (!same) return invalid("shard: its transforms differ from those of the whole head");
  return {};
}

}  // namespace isologit::detail::tiles
