// The element types of the safetensors format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "isologit/dtype.hpp"

namespace isologit::detail::io {

// Bits of one element of a dtype as safetensors writes it ("BF16", "F4", ...); nothing when the name is unknown.
std::optional<unsigned> safetensors_bits(std::string_view dtype);

// The elements of a shape; nothing when a dimension is negative or the product does not fit.
std::optional<std::uint64_t> element_count(std::span<const std::int64_t> shape);

// The core's element type for "BF16", "F16" and "F32".
std::optional<DType> core_dtype(std::string_view dtype);

}  // namespace isologit::detail::io
