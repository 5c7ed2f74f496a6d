// Logits in bf16 and nothing else, of bf16 operands: by the passes of kernels/bf16_pass.hpp, which need no f32 logits.
#pragma once

#include "isologit/score.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::score {

// Whether the request is for these, and the target has a pass that is worth while.
bool serves_bf16(const Head& head, const ScoreRequest& request, const ScoreOptions& options,
                 const kernels::Target& target);

// Of a request that was validated, within tiles::call. Throws std::bad_alloc.
Result<ScoreReport> bf16_logits(const Head& head, const ScoreRequest& request, const ScoreOptions& options,
                                const kernels::Target& target, int threads);

}  // namespace isologit::detail::score
