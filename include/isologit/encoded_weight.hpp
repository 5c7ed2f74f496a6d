// Weights that are stored in another type than products are made of: f64, and f8 with scales.
#pragma once

#include <cstdint>
#include <string_view>

#include "isologit/view.hpp"

namespace isologit {

// f8_e4m3: 1 sign, 4 exponent, 3 fraction bits, no infinities (OCP E4M3, torch's float8_e4m3fn); f8_e5m2: the upper
// half of an f16.
enum class Encoding : std::uint8_t { none = 0, f64 = 1, f8_e4m3 = 2, f8_e5m2 = 3 };

// "f64", "f8_e4m3" or "f8_e5m2".
constexpr std::string_view encoding_name(Encoding encoding) {
  switch (encoding) {
    case Encoding::none: return "none";
    case Encoding::f64: return "f64";
    case Encoding::f8_e4m3: return "f8_e4m3";
    case Encoding::f8_e5m2: return "f8_e5m2";
  }
  return "unknown";
}

// What an f8 weight stands for (CONTRACT.md 1).
enum class F8Product : std::uint8_t {
  real,  // the real product of scale and value
  bf16,  // that product rounded once to bf16
};

// The scales of an f8 weight. Element (r, c) is multiplied by values(floor((first_row + r) / block_rows),
// floor(c / block_cols)); the last blocks may be partial.
struct F8Scales {
  MatrixView values;            // [row blocks, column blocks]
  std::int64_t block_rows = 0;  // 0: all rows
  std::int64_t block_cols = 0;  // 0: all columns
  std::int64_t first_row = 0;   // of a part of a weight: the row of the whole that it begins with, as scales count it
};

// Its shape and row stride, in elements, are those of Head::weight, whose data is null.
struct EncodedWeight {
  Encoding encoding = Encoding::none;
  const void* data = nullptr;
  F8Scales scales;  // of f8, which must have them
  F8Product product = F8Product::real;
};

}  // namespace isologit
