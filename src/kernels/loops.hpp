// Loops that several targets hold.
#pragma once

#include "kernels/backward_loops.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::kernels {

struct Loops {
  const FoldLoops& fold;
  const BackwardLoops& backward;
};

Loops portable_loops();
Loops avx512_loops();  // where the processor has AVX-512

}  // namespace isologit::detail::kernels
