// The head of a checkpoint in a few words.
#pragma once

#include <string>

#include "io/checkpoint.hpp"

namespace isologit::detail::cli {

// "lm_head.weight  bf16 [151936, 4096]", with "tied" where it is the embedding.
std::string head_text(const io::Checkpoint& checkpoint);

// "softcap 30, then x 0.5"; "none".
std::string transforms_text(const Transforms& transforms);

}  // namespace isologit::detail::cli
