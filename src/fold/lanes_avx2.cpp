#define ISOLOGIT_LANES 4
#include "fold/lanes_impl.hpp"

namespace isologit::fold {

const Lanes& avx2_lanes() { return kLanes; }

}  // namespace isologit::fold
