// Everything a score must satisfy before anything is computed.
#pragma once

#include <cstdint>

#include "isologit/score.hpp"

namespace isologit::detail::score {

// A request to a head [vocab_size, cols].
Result<void> validate(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                      const ScoreRequest& request, const ScoreOptions& options);

// No output may share memory with an input or with another output.
Result<void> validate_overlap(const Head& head, const ScoreRequest& request);

}  // namespace isologit::detail::score
