// The kernels of logits of f16 weights for the host. A file for each type, so that they are compiled side by side.
#include "problem.hpp"

namespace isologit::detail::cuda {

template void launch_logits<HostLauncher, F16>(HostLauncher&, const LogitsRequest&);
template void launch_prepared<HostLauncher, F16>(HostLauncher&, const Product&, int);

}  // namespace isologit::detail::cuda
