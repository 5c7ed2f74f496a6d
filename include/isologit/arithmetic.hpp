// The two arithmetics.
#pragma once

#include <cstdint>

namespace isologit {

// Of logits: exact, the real number rounded once (CONTRACT.md 1); fast, accumulated in f32 in an order that the kernel
// alone fixes (CONTRACT.md 6). Of gradients: exact, the real sum rounded once; fast, within the bounds of
// CONTRACT.md 5.
enum class Arithmetic : std::uint8_t { exact = 0, fast = 1 };

constexpr const char* arithmetic_name(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::exact ? "exact" : "fast";
}

}  // namespace isologit
