// Borrowed arrays: a pointer, an element type and a shape. A view never owns or copies memory; what it points to
// must stay alive and unchanged while a call that was given the view runs. Data need not be aligned.
#pragma once

#include <cstdint>

#include "isologit/dtype.hpp"

namespace isologit {

// A matrix [rows, cols]; row r begins at element r * row_stride of data, its elements are adjacent.
// row_stride counts elements, may exceed cols, and may be 0 or negative (rows that repeat or run backwards).
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;
};

// A vector of adjacent elements. data == nullptr with size 0 means "none".
struct VectorView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t size = 0;
};

}  // namespace isologit
