#define ISOLOGIT_LANES 2
#include "fold/lanes_impl.hpp"

namespace isologit::fold {

const Lanes& portable_lanes() { return kLanes; }

}  // namespace isologit::fold
