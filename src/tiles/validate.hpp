// Shapes and parameters that every verb checks before anything is computed.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "isologit/partial.hpp"

namespace isologit::detail::tiles {

// rows * stride * element size must stay far from overflow.
constexpr std::int64_t kMostElements = std::numeric_limits<std::int64_t>::max() / 16;

Result<void> invalid(std::string message);

Result<void> validate_matrix(std::string_view name, const MatrixView& matrix);
// The hidden rows of a head whose rows have `cols` elements.
Result<void> validate_hidden(const MatrixView& hidden, std::int64_t cols);
Result<void> validate_transforms(const Transforms& transforms);
// One temperature, or one per row; `zero` allows 0.
Result<void> validate_temperatures(std::span<const float> temperatures, std::int64_t rows, bool zero);
Result<void> validate_threads(int threads);
// How many elements there are for each of the rows.
Result<void> validate_per_row(std::string_view name, std::int64_t per_row, std::int64_t rows);
// Of an output whose rows must not overlap: the stride between them.
Result<void> validate_stride(std::string_view name, std::int64_t rows, std::int64_t cols, std::int64_t row_stride);
// That ids [first, first + count) are of the vocabulary. Any numbers may come in.
Result<void> validate_ids(std::string_view name, std::int64_t first, std::int64_t count, std::int64_t vocab_size);

// A block of a head [vocab_size, cols]: its shape, its place, its transforms.
Result<void> validate_shard(const Shard& shard, std::int64_t vocab_size, std::int64_t cols,
                            const Transforms& transforms);

}  // namespace isologit::detail::tiles
