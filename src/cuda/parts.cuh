// Derivatives as two numbers of bf16, for the products that part_products.cuh makes of them with rows of bf16: hi =
// RN_bf16(a) and lo = RN_bf16(a - hi), a being dz times a power of two.
//
// The depth of a product goes in groups of 64; what follows is one row r of dz in one group. d numbers the group's rows
// w_d of the other operand, x(d) is the exponent of dz_d, e(d) that of the greatest element of w_d. Plain are the rows
// with e(d) from kLeastSize to kGreatestSize; rows of zeros add nothing, and odd ones, the others, which hold something
// that is not finite too, are left to f64. The power of two brings x(d) + e(d), at its greatest over the plain rows, to
// kCentre: so neither how small a row of dz is nor how small one of w matters, but only what they are together, and no
// result depends on more than its row of dz and the other operand.
//
// Why it is right: what a chain (64 terms: four multiplications of lo, then four of hi, which begin at 0) and the sum
// of chains are off by, relative to sum |dz| |w| where nothing else is said.
// - dz itself: 2^-20 (derivative.cuh) and, as a word, 2^-21. One that is not finite makes its whole row NaN.
// - hi + lo: |a - hi| is at most 2^(x-8) for |a| in [2^x, 2^(x+1)), and half the last place of such a number at most
//   2^(x-17): 2^-17 of a, or 2^-134 where that is more.
// - Each multiplication errs by kMmaError of |c| and its own products (fast.cuh). sum |hi w| is at most 1 + 2^-8 of
//   sum |a w|, sum |lo w| 2^-8 (1 + 2^-8), and of these the first is met up to four times, the second up to eight:
//   4 kMmaError (1 + 2^-6), errors of c itself included.
// - Nothing overflows: a_d is at most 2^127, |a_d w_d| below 2^(kCentre + 2), and 64 of these and their parts below
//   2^(kCentre + 9).
// - What is subnormal. The 2^-134 of parts is 2^(6 - 134) times the norm of a row, which is at most 2^(kGreatestSize +
//   1 + 10) with up to 2^20 columns; sums that are subnormal in f32 lose at most 128 2^-147 each, 2^(10 + 7 - 147) in
//   norm. Against that sum |a| |w|, by norms, is at least 2^kCentre: both together are below 2^-23 of it.
// - A chain is added to an f64 with its power of two: one rounding for each of 2^31 chains and products of odd rows at
//   most, 2^-22.
// kPartBound is all of this. It is below CONTRACT.md 5's 2^-16 for each element, and so for the norms of rows.
//
// A row whose X(r), the greatest x(d) + e(d), is below kLeastProduct counts as one with that X: its products are below
// 2^-898, of which no result tells. |dz| itself is below 2^540: upstreams, logits and their factors are of f32.
#pragma once

#include "cuda/derivative.cuh"
#include "cuda/fast.cuh"

namespace isologit::detail::cuda {

inline constexpr int kPartGroup = kChain;  // of the depth
inline constexpr int kMostGroups = 32;     // of a product
inline constexpr int kCentre = 24;
inline constexpr int kLeastSize = kCentre - 126;
inline constexpr int kGreatestSize = kCentre + 93;
inline constexpr int kLeastProduct = -900;
inline constexpr int kMostProduct = 900;  // never met
inline constexpr int kZeroRow = -1000;    // in the place of e(d)
inline constexpr int kOddRow = 1000;

inline constexpr double kPartBound =
    (0x1p-20 + 0x1p-21) + 0x1p-17 * (1 + 0x1p-18) + 4 * kMmaError * (1 + 0x1p-6) * (1 + 0x1p-18) + 0x1p-23 + 0x1p-22;
static_assert(kPartBound < 0x1p-16);
static_assert(kPartGroup == 64 && kCentre + 9 < 127 && kCentre + 1 - kLeastSize <= 127);
static_assert(6 - 134 + kGreatestSize + 1 + 10 <= kCentre - 24 && 10 + 7 - 147 <= kCentre - 24);
static_assert(kLeastProduct - kCentre >= -1022 && kMostProduct - kCentre <= 1022 && kCentre - kLeastProduct <= 1022 &&
              kCentre - kMostProduct >= -1022);

// Of 64 rows of the other operand, a bit each, eight a byte: which are plain, and which odd.
struct alignas(16) GroupRows {
  std::uint8_t plain[8], odd[8];

  ISOLOGIT_DEVICE bool is_plain(int d) const { return (plain[d / 8] >> d % 8 & 1) != 0; }
  ISOLOGIT_DEVICE std::uint64_t all_odd() const {
    std::uint64_t bits;
    memcpy(&bits, odd, sizeof bits);
    return bits;
  }
};

struct Measuring {
  const void* data;  // [rows, cols] of bf16
  std::int64_t stride;
  bool aligned;
  int rows, cols;
  const RowUpstream* upstreams;  // or null: of rows that are not active nothing is looked at, and they count as zeros
  int* sizes;                    // e(d), up to a multiple of kPartGroup rows
  GroupRows* groups;
};

// e(d) of all rows, a warp each. Predicted: the time of one read, of which the product's is then from a cache.
template <class BlockType>
struct Measure {
  using Block = BlockType;
  using Args = Measuring;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kRows = Block::kWarps;
  static_assert(kRows == 8);  // of a byte
  struct Shared {
    int sizes[kRows];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const Measuring& p, int tile, int) {
    block.each_warp([&](int warp) {
      const int row = tile * kRows + warp;
      typename Block::template PerLane<std::uint32_t> most;
      block.each_lane([&](int lane) { most(lane) = most_of(p, row, lane); });
      block.reduce([&](int lane) -> std::uint32_t& { return most(lane); }, 1, 32,
                   [](std::uint32_t& to, const std::uint32_t& from) { to = most_of_halves(to, from); });
      block.each_lane([&](int lane) {
        if (lane != 0) return;
        const std::uint32_t low = most(lane) & 0xFFFFU;
        const std::uint32_t high = most(lane) >> 16;
        shared.sizes[warp] = p.sizes[row] = size_of(low > high ? low : high);
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp != 0 || lane != 0) return;
        std::uint32_t plain = 0;
        std::uint32_t odd = 0;
        for (int i = 0; i < kRows; ++i) {
          plain |= shared.sizes[i] != kZeroRow && shared.sizes[i] != kOddRow ? 1U << i : 0U;
          odd |= shared.sizes[i] == kOddRow ? 1U << i : 0U;
        }
        p.groups[tile / 8].plain[tile % 8] = static_cast<std::uint8_t>(plain);
        p.groups[tile / 8].odd[tile % 8] = static_cast<std::uint8_t>(odd);
      });
    });
  }

 private:
  // The greatest bits of magnitudes, of elements at even and at odd places.
  ISOLOGIT_DEVICE static std::uint32_t most_of(const Measuring& p, int row, int lane) {
    std::uint32_t most = 0;
    if (row >= p.rows || (p.upstreams != nullptr && p.upstreams[row].active == 0)) return most;
    const auto* from = static_cast<const std::uint16_t*>(p.data) + row * p.stride;
#ifdef __CUDACC__
#pragma unroll 4
#endif
    for (int k = 8 * lane; k < p.cols; k += 8 * 32) {
      const Chunk<Bf16> chunk =
          p.aligned ? load_chunk<Bf16, true>(from, k, p.cols) : load_chunk<Bf16, false>(from, k, p.cols);
      ISOLOGIT_UNROLL
      for (int i = 0; i < 4; ++i) most = most_of_halves(most, chunk.part[0].word[i] & 0x7FFF7FFFU);
    }
    return most;
  }

  ISOLOGIT_DEVICE static int size_of(std::uint32_t magnitude) {
    if (magnitude == 0) return kZeroRow;
    const int size =
        magnitude < 0x80U ? highest_bit(magnitude) + Bf16::kLowest : static_cast<int>(magnitude >> 7) - 127;
    return size < kLeastSize || size > kGreatestSize ? kOddRow : size;  // what is not finite has 128
  }
};

// The parts of dz for a product: of row r and group g 64 of hi and 64 of lo, two a word, and the power of two that
// their sums are to be multiplied with, or NaN where a dz is not finite.
struct Parts {
  std::uint32_t* words;  // [rows up to kPartGroup][groups][2][32], or null
  std::int64_t stride;   // of rows
  double* units;         // [groups][rows up to kPartGroup]
  std::int64_t unit_stride;
  const int* sizes;  // e(d) of the other operand
};

struct PartMaking {
  const std::uint32_t* words;  // dz [rows, cols]
  std::int64_t words_stride;
  int rows, cols;
  Parts by_rows, by_cols;  // rows of the result are rows or columns of dz, and the depth is the other
};

// Of 64 rows and 64 columns of dz, both. Predicted: some 70 instructions for 64 numbers, a hundredth of the products'
// time or two.
template <class BlockType>
struct MakeParts {
  using Block = BlockType;
  using Args = PartMaking;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kPitch = kPartGroup + 1;  // so that lanes meet in few banks, along rows and columns
  struct Shared {
    std::uint32_t dz[kPartGroup * kPitch];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const PartMaking& p, int row_tile, int col_tile) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int at = 32 * warp + lane; at < kPartGroup * kPartGroup; at += Block::kThreads) {
          const int row = row_tile * kPartGroup + at / kPartGroup;
          const int col = col_tile * kPartGroup + at % kPartGroup;
          shared.dz[at / kPartGroup * kPitch + at % kPartGroup] =
              row < p.rows && col < p.cols ? p.words[row * p.words_stride + col] : 0;
        }
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      make(block, shared, p.by_rows, row_tile, col_tile, kPitch, 1, warp);
      make(block, shared, p.by_cols, col_tile, row_tile, 1, kPitch, warp);
    });
  }

 private:
  struct Found {
    int product;  // the greatest x(d) + e(d)
    int special;
  };

  // A lane has places 2 lane and 2 lane + 1 of the depth.
  ISOLOGIT_DEVICE static void make(Block& block, const Shared& shared, const Parts& to, int tile, int group,
                                   int row_step, int depth_step, int warp) {
    if (to.words == nullptr) return;
    for (int i = warp; i < kPartGroup; i += Block::kWarps) {
      const auto word = [&](int lane, int j) { return shared.dz[i * row_step + (2 * lane + j) * depth_step]; };
      const auto size = [&](int lane, int j) { return to.sizes[group * kPartGroup + 2 * lane + j]; };
      typename Block::template PerLane<Found> found;
      block.each_lane([&](int lane) {
        found(lane) = {kLeastProduct, 0};
        ISOLOGIT_UNROLL
        for (int j = 0; j < 2; ++j) note(found(lane), word(lane, j), size(lane, j));
      });
      block.reduce([&](int lane) -> Found& { return found(lane); }, 1, 32,
                   [](Found& into, const Found& from) {
                     into.product = from.product > into.product ? from.product : into.product;
                     into.special |= from.special;
                   });
      const std::int64_t row = static_cast<std::int64_t>(tile) * kPartGroup + i;
      block.each_lane([&](int lane) {
        const int product = found(lane).product < kMostProduct ? found(lane).product : kMostProduct;
        const double scale = power_of_two(kCentre - product);
        std::uint32_t hi = 0;
        std::uint32_t lo = 0;
        ISOLOGIT_UNROLL
        for (int j = 0; j < 2; ++j) {
          const int e = size(lane, j);
          if (found(lane).special != 0 || e == kZeroRow || e == kOddRow) continue;
          split(from_words(word(lane, j), 0) * scale, 16 * j, hi, lo);
        }
        std::uint32_t* words = to.words + row * to.stride + group * kPartGroup;
        words[lane] = hi;
        words[32 + lane] = lo;
        if (lane == 0) {
          to.units[group * to.unit_stride + row] =
              found(lane).special != 0 ? static_cast<double>(quiet_nan()) : power_of_two(product - kCentre);
        }
      });
    }
  }

  ISOLOGIT_DEVICE static void note(Found& found, std::uint32_t word, int size) {
    const int field = static_cast<int>(word >> 20 & 0x7FFU);
    if (field == 0x7FF) found.special = 1;
    if (field == 0 || size == kZeroRow || size == kOddRow) return;
    const int product = field - 1023 + size;
    if (product > found.product) found.product = product;
  }

  ISOLOGIT_DEVICE static void split(double a, int shift, std::uint32_t& hi, std::uint32_t& lo) {
    const float all = nearest(a);  // of 21 bits: off only where f32 is subnormal
    const float high = without_bits(all, 16);
    const float low = without_bits(all - high, 16);
    hi |= bit_cast<std::uint32_t>(high) >> 16 << shift;
    lo |= bit_cast<std::uint32_t>(low) >> 16 << shift;
  }
};

}  // namespace isologit::detail::cuda
