// From a dtype to code for it. In an unnamed namespace like all that files for one instruction set include.
#pragma once

#include "isologit/dtype.hpp"

namespace isologit::detail::kernels {
namespace {

// work.operator()<dtype>().
template <class Work>
auto with_dtype(DType dtype, Work&& work) {
  switch (dtype) {
    case DType::bf16: return work.template operator()<DType::bf16>();
    case DType::f16: return work.template operator()<DType::f16>();
    case DType::f32: break;
  }
  return work.template operator()<DType::f32>();
}

}  // namespace
}  // namespace isologit::detail::kernels
