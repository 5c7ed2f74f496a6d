// The order of a row's logits: NaN first, then descending, equal ones by ascending id.
#pragma once

#include "cuda/support.cuh"

namespace isologit::detail::cuda {

// A greater logit has a greater place. Zeros of logits are +0.
ISOLOGIT_DEVICE std::uint32_t place_of_logit(float z) {
  const auto bits = bit_cast<std::uint32_t>(z);
  return z != z ? 0xFFFFFFFFU : (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
ISOLOGIT_DEVICE float logit_of_place(std::uint32_t place) {
  return bit_cast<float>((place >> 31) != 0 ? place & 0x7FFFFFFFU : ~place);
}
// Of two ids the one that stands before has the greater number; no two have the same, and none has 0.
ISOLOGIT_DEVICE std::uint64_t order_key(float z, int id) {
  return std::uint64_t{place_of_logit(z)} << 32 | (0xFFFFFFFFU - static_cast<std::uint32_t>(id));
}
ISOLOGIT_DEVICE int id_of_key(std::uint64_t key) {
  return static_cast<int>(0xFFFFFFFFU - static_cast<std::uint32_t>(key & 0xFFFFFFFFU));
}

// Whole rows of last logits, and which of their ids count.
struct WholeRows {
  const float* logits;  // [rows, vocab]
  int vocab;
  std::int64_t first_row;  // among all, whose support this is
  Support support;

  ISOLOGIT_DEVICE float logit(int row, int id) const { return logits[static_cast<std::int64_t>(row) * vocab + id]; }
  // 0 of an id outside the support
  ISOLOGIT_DEVICE std::uint64_t key(int row, int id) const {
    return support.has(first_row + row, id) ? order_key(logit(row, id), id) : 0;
  }
};

}  // namespace isologit::detail::cuda
