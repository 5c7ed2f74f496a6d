// Rows of two logits, 0 and x < 0, of which one result lies so near the boundary between two f32 roundings that f64
// cannot tell its side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace isologit::testing_score {

enum class HardResult { lse, logprob, entropy };  // logprob: of the logit 0
inline constexpr HardResult hard_results[] = {HardResult::lse, HardResult::logprob, HardResult::entropy};

// The `count` hardest x among `tries`, the hardest first.
std::vector<float> hard_pairs(HardResult result, std::int64_t tries, std::size_t count);

// How far a real number, given to 64 bits, is from the nearest boundary, as a share of its f32 spacing: 0 to 0.5.
long double distance_to_boundary(long double value);

}  // namespace isologit::testing_score
