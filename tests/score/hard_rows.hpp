// Rows of two logits, 0 and x, of which one result lies so near the boundary between two f32 roundings that f64
// cannot tell its side: the nearest among all f32 numbers x in (-16, -2^-4), found by trying each of them.
#pragma once

#include <array>

namespace isologit::testing_score {

// lse, and logprob of the logit 0, which is -lse: within 2^-24.8 of the f32 spacing from a boundary.
inline constexpr std::array<float, 7> hard_lse = {-0x1.c0c966p-3F, -0x1.c4490ap-2F, -0x1.605a5ap-2F, -0x1.2ab37ep+3F,
                                                  -0x1.53441p-1F,  -0x1.545f32p+2F, -0x1.ab282p-4F};
// entropy: as near.
inline constexpr std::array<float, 7> hard_entropy = {-0x1.6d268p+2F,  -0x1.f9a0c6p+3F, -0x1.ffd88ep-4F,
                                                      -0x1.8125e2p-1F, -0x1.dc0b0ap-2F, -0x1.08ef16p+2F,
                                                      -0x1.b68724p+0F};

}  // namespace isologit::testing_score
