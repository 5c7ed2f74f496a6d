#define ISOLOGIT_LANES 2
#include "backward/kernels_impl.hpp"

namespace isologit::gradient {

const Kernels& portable_kernels() { return kTable; }

}  // namespace isologit::gradient
