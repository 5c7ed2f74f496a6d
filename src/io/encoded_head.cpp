#include "io/encoded_head.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "base/text.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

// Whose tensors of these names are what values are multiplied by.
constexpr std::array<std::string_view, 4> known_methods{"fp8", "compressed-tensors", "fbgemm_fp8", "modelopt"};

Encoding encoding_of(std::string_view dtype) {
  if (dtype == "F64") return Encoding::f64;
  if (dtype == "F8_E4M3") return Encoding::f8_e4m3;
  return dtype == "F8_E5M2" ? Encoding::f8_e5m2 : Encoding::none;
}

tl::unexpected<Error> refuse(const CheckpointFiles::Found& scales, const std::string& why) {
  return fail(StatusCode::unsupported,
              base::concat(base::in_quotes(scales.path), ": tensor ", base::in_quotes(scales.tensor->name), ": ", why));
}

// What a configuration must say for its scales to be known.
std::string why_not_known(std::string_view module, const HfConfig& config) {
  if (!config.quantization) return "config.json has no quantization_config, which says what the scales are";
  const Quantization& quantization = *config.quantization;
  if (std::find(known_methods.begin(), known_methods.end(), quantization.method) == known_methods.end()) {
    return base::concat("quant_method is ", base::in_quotes(quantization.method), ", expected ",
                        base::join(known_methods, ", "));
  }
  if (quantization.leaves_out(module)) {
    return base::concat("quantization_config leaves ", module, " as it was, and its weight is f8");
  }
  if (!quantization.changes.empty()) return base::concat(quantization.changes, ", which is not known");
  return {};
}

// E8M0 holds 2^(bits - 127), and NaN as 255: all are bf16 numbers, 2^-127 a subnormal one.
std::vector<std::uint16_t> bf16_of_e8m0(const Tensor& tensor) {
  std::vector<std::uint16_t> numbers(element_count(tensor.shape).value_or(0));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto bits = std::to_integer<unsigned>(tensor.data[i]);
    numbers[i] = static_cast<std::uint16_t>(bits == 0xFF ? 0x7FC0 : bits == 0 ? 0x0040 : bits << 7);
  }
  return numbers;
}

std::int64_t blocks_of(std::int64_t size, std::int64_t block) { return size / block + (size % block != 0 ? 1 : 0); }

// The scales as [row blocks, column blocks] with the blocks' size; nothing where the shape is none that is known.
std::optional<F8Scales> scales_of(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& block,
                                  const MatrixView& weight) {
  F8Scales scales;
  if (!block.empty()) {
    const std::vector<std::int64_t> blocks = {blocks_of(weight.rows, block[0]), blocks_of(weight.cols, block[1])};
    if (shape != blocks) return std::nullopt;
    scales.values.rows = shape[0];
    scales.values.cols = shape[1];
    scales.block_rows = block[0];
    scales.block_cols = block[1];
  } else if (shape.size() <= 2 && element_count(shape) == 1) {
    scales.values.rows = 1;
    scales.values.cols = 1;
  } else if (!shape.empty() && shape[0] == weight.rows && (shape.size() == 1 || (shape.size() == 2 && shape[1] == 1))) {
    scales.values.rows = weight.rows;
    scales.values.cols = 1;
    scales.block_rows = 1;
  } else {
    return std::nullopt;
  }
  scales.values.row_stride = scales.values.cols;
  return scales;
}

}  // namespace

bool is_weight_dtype(std::string_view dtype) {
  return core_dtype(dtype).has_value() || encoding_of(dtype) != Encoding::none;
}

void set_weight(const Tensor& tensor, Head& head) {
  const std::optional<DType> dtype = core_dtype(tensor.dtype);
  const std::int64_t cols = tensor.shape[1];
  head.weight = {dtype ? tensor.data : nullptr, dtype.value_or(DType::f32), tensor.shape[0], cols, cols};
  head.encoded.encoding = encoding_of(tensor.dtype);
  if (!dtype) head.encoded.data = tensor.data;
}

Result<void> set_scales(const CheckpointFiles::Found& scales, std::string_view module, const HfConfig& config,
                        Head& head, std::vector<std::uint16_t>& decoded) {
  const bool powers_of_two = scales.tensor->dtype == "F8_E8M0";
  const std::optional<DType> dtype = powers_of_two ? DType::bf16 : core_dtype(scales.tensor->dtype);
  if (!dtype) {
    return refuse(
        scales, base::concat("dtype ", base::printable(scales.tensor->dtype), ", expected F32, BF16, F16 or F8_E8M0"));
  }
  if (const std::string why = why_not_known(module, config); !why.empty()) return refuse(scales, why);
  const std::vector<std::int64_t>& block = config.quantization->block;
  const std::optional<F8Scales> known = scales_of(scales.tensor->shape, block, head.weight);
  if (!known) {
    const std::string wanted =
        block.empty()
            ? std::string("one scale for all or for each row, and blocks are not given in quantization_config")
            : base::concat("one scale for each block of ", base::shape_text(block));
    return refuse(scales, base::concat("shape ", base::shape_text(scales.tensor->shape), " for a weight of [",
                                       head.weight.rows, ", ", head.weight.cols, "], expected ", wanted));
  }
  head.encoded.scales = *known;
  if (powers_of_two) decoded = bf16_of_e8m0(*scales.tensor);
  head.encoded.scales.values.data = scales.tensor->data;
  if (powers_of_two) head.encoded.scales.values.data = decoded.data();
  head.encoded.scales.values.dtype = *dtype;
  return {};
}

}  // namespace isologit::detail::io
