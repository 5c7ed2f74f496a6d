// Shapes and parameters that every verb checks before anything is computed.
#pragma once

#include <cstdint>
#include <string_view>

#include "isologit/partial.hpp"

namespace isologit::detail::tiles {

Result<void> invalid(std::string message);

Result<void> validate_matrix(std::string_view name, const MatrixView& matrix);
// The hidden rows of a head whose rows have `cols` elements.
Result<void> validate_hidden(const MatrixView& hidden, std::int64_t cols);
Result<void> validate_transforms(const Transforms& transforms);
// One temperature, or one per row; `zero` allows 0.
Result<void> validate_temperatures(std::span<const float> temperatures, std::int64_t rows, bool zero);
Result<void> validate_threads(int threads);

// A block of a head [vocab_size, cols]: its shape, its place, its transforms.
Result<void> validate_shard(const Shard& shard, std::int64_t vocab_size, std::int64_t cols,
                            const Transforms& transforms);

}  // namespace isologit::detail::tiles
