// Everything a sampling request must satisfy before anything is computed.
#pragma once

#include <cstdint>

#include "isologit/sample.hpp"

namespace isologit::detail::sample {

// The part of it that does not concern the head: temperatures, the generator's numbers, cuts.
Result<void> validate_draws(const SampleRequest& request, std::int64_t vocab_size);

// All of it but the shape of the weight and of hidden, for a vocabulary of that size.
Result<void> validate_request(const Head& head, const SampleRequest& request, const ScoreOptions& options,
                              std::int64_t vocab_size);

Result<void> validate(const Head& head, const SampleRequest& request, const ScoreOptions& options);

}  // namespace isologit::detail::sample
