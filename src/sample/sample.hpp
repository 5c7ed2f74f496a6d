// The draws of a request that has been checked, by the tiles of a target.
#pragma once

#include <span>

#include "fold/top_k.hpp"
#include "isologit/sample.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::sample {

// cut_ends: none, or one for each row, which receives the last place in the row's order that the cuts keep.
Result<SampleReport> run(const Head& head, const SampleRequest& request, const ScoreOptions& options,
                         const kernels::Target& target, std::span<fold::Candidate> cut_ends = {});

}  // namespace isologit::detail::sample
