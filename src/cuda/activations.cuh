// Activations of a forward pass, as isologit_tensor has them, and how a result of f64 with a bound ends.
#pragma once

#include "cuda/block.cuh"
#include "cuda/result.cuh"

namespace isologit::detail::cuda {

inline constexpr int kMostDim = 1 << 20;  // elements of a row
// Of what is made element by element: of a row, in one block.
inline constexpr int kPerElementThread = 4;
inline constexpr int kPiece = 256 * kPerElementThread;

// Row r is head r % heads of token r / heads.
struct Rows3 {
  std::int64_t token_stride, head_stride;  // in elements
  int heads;

  ISOLOGIT_DEVICE std::int64_t offset_of(int row) const {
    if (heads == 1) return row * token_stride;
    return row / heads * token_stride + row % heads * head_stride;
  }
};

struct Activations {
  const void* data;  // or null
  Rows3 rows;
  int type;

  ISOLOGIT_DEVICE double at(std::int64_t offset) const {
    return static_cast<double>(element_value(data, type, offset));
  }
};
// Where results go, which may be an operand itself: an element is read before its result is stored.
struct Results3 {
  void* data;
  Rows3 rows;
  int type;

  // Of NaN the one that results may hold.
  ISOLOGIT_DEVICE void store(std::int64_t offset, float x) const {
    store_result(data, type, offset, x == x ? x : quiet_nan());
  }
};

ISOLOGIT_DEVICE bool is_finite(double x) { return fabs(x) < bit_cast<double>(std::uint64_t{0x7FF0000000000000U}); }

// What lies within `error` of a value: the two numbers of a type that it may round to.
struct Ends {
  float low, high;
  // Never of NaN.
  ISOLOGIT_DEVICE bool agree() const { return low == high; }
};
ISOLOGIT_DEVICE Ends ends_of(double value, double error, int type) {
  const double wide = error + fabs(value) * 0x1p-52;  // the additions round too
  return {round_once(value - wide, type), round_once(value + wide, type)};
}

// What is made element by element: Make::one(block, row, i) of row and element. Blocks divide rows into pieces.
template <class BlockType, class Make>
struct EachElement {
  using Block = BlockType;
  using Args = Make;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const Make& make, int index, int) {
    const int pieces = (make.dim + kPiece - 1) / kPiece;
    const int row = index / pieces;
    const int first = index % pieces * kPiece;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        ISOLOGIT_ROLLED
        for (int n = 0; n < kPerElementThread; ++n) {
          const int i = first + n * Block::kThreads + 32 * warp + lane;
          if (i < make.dim) make.one(block, row, i);
        }
      });
    });
  }
};
template <class Launcher, class Make>
void launch_each(Launcher& launcher, const Make& make, std::int64_t rows) {
  const std::int64_t pieces = (make.dim + kPiece - 1) / kPiece;
  launcher.template launch<EachElement<typename Launcher::template Block<8>, Make>>(static_cast<int>(rows * pieces), 1,
                                                                                    make);
}

}  // namespace isologit::detail::cuda
