// Everything a call must satisfy before anything is computed.
#pragma once

#include <cstdint>
#include <string_view>

#include "isologit/partial.hpp"

namespace isologit::head {

Result<void> validate_matrix(std::string_view name, const MatrixView& matrix);
Result<void> validate_transforms(const Transforms& transforms);
// One temperature, or one per row; `zero` allows 0.
Result<void> validate_temperatures(std::span<const float> temperatures, std::int64_t rows, bool zero);
Result<void> validate_threads(int threads);
Result<void> validate_support(const Support& support, std::int64_t rows, std::int64_t vocab_size);

// A block of a head [vocab_size, cols]: its shape, its place, its transforms.
Result<void> validate_shard(const Shard& shard, std::int64_t vocab_size, std::int64_t cols,
                            const Transforms& transforms);

// A request to a head [vocab_size, cols].
Result<void> validate(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                      const ScoreRequest& request, const ScoreOptions& options);

// No output may share memory with an input or with another output.
Result<void> validate_overlap(const Head& head, const ScoreRequest& request);

}  // namespace isologit::head
