// Buffers of a request must be apart: no output may share memory with an input or with another output.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "isologit/head.hpp"
#include "isologit/status.hpp"
#include "isologit/support.hpp"

namespace isologit::detail::tiles {

struct Range {
  std::string_view name;
  std::uintptr_t begin;
  std::uintptr_t end;
};

Range range_of(std::string_view name, const void* data, std::int64_t bytes);
Range range_of(std::string_view name, const MatrixView& matrix);
// Of rows of `bytes` bytes, `stride` bytes apart.
Range range_of(std::string_view name, const void* data, std::int64_t rows, std::int64_t bytes, std::int64_t stride);
Range range_of(std::string_view name, const VectorView& vector);
template <class T>
Range range_of(std::string_view name, std::span<const T> list) {
  return range_of(name, list.data(), static_cast<std::int64_t>(list.size_bytes()));
}

// What every verb on hidden states only reads: hidden, the head, temperatures, the lists of a support.
std::vector<Range> operand_ranges(const Head& head, const MatrixView& hidden, std::span<const float> temperatures,
                                  const Support& support);

Result<void> check_apart(std::span<const Range> outputs, std::span<const Range> inputs);

}  // namespace isologit::detail::tiles
