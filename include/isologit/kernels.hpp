// The kernels that make logits: which are built in, which run on this machine, which would be chosen.
#pragma once

#include <string>
#include <vector>

#include "isologit/arithmetic.hpp"
#include "isologit/dtype.hpp"

namespace isologit {

struct KernelInfo {
  std::string name;             // "reference", "portable", "avx2", ...
  std::string instruction_set;  // "any", "AVX2+FMA", ...
  Arithmetic arithmetic = Arithmetic::exact;
  std::vector<DType> dtypes;  // of hidden and weight, in any combination
  bool runnable = false;      // on this machine
  std::string why_not;        // when not runnable: what is missing
  bool chosen = false;        // would be taken for its arithmetic when no name is given
};

// Best first; the reference is last.
std::vector<KernelInfo> kernels();

}  // namespace isologit
