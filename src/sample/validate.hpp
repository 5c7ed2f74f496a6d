// Everything a sampling request must satisfy before anything is computed.
#pragma once

#include <cstdint>

#include "isologit/sample.hpp"

namespace isologit::detail::sample {

// The part of it that does not concern the head: temperatures, the generator's numbers, cuts.
Result<void> validate_draws(const SampleRequest& request, std::int64_t vocab_size);

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options);

}  // namespace isologit::detail::sample
