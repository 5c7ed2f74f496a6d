#define ISOLOGIT_LANES 4
#include "backward/kernels_impl.hpp"

namespace isologit::gradient {

const Kernels& avx2_kernels() { return kTable; }

}  // namespace isologit::gradient
