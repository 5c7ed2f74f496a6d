// Products of f32 numbers and bf16 elements by instructions that multiply bf16 and add in f32, for backward's fast sums
// (backward/products.hpp): each f32 number a goes as two parts, hi = RN_bf16(a) and lo = RN_bf16(a - hi).
//
// The error of a piece of kDepth terms, for a row of A whose greatest magnitude lies in [1, 2) and a plain panel of B
// (below). hi + lo is within 2^-17 |a| of a: |a - hi| <= 2^(e-8) for |a| in [2^e, 2^(e+1)), and half the place of such
// a number's last bit is 2^(e-17) at most. A product is exact and passes through kPartRoundings roundings at most, of
// 2^-24 each; |hi| + |lo| is at most (1 + 2^-7) |a|. Together 2^-17 (1 + 25/128 (1 + 2^-7)) < 2^-16.7. Subnormal parts,
// elements and sums may count as 0: a part times an element below 2^50 then loses 2^-76 at most, all kDepth terms less
// than 2^-66 for each column. Of a panel, sum |a| ‖b‖ is at least 2^-40, the greatest |a| times the least of the
// greatest elements of a row, so that these are 2^-23 of it. The sums are within 2^-16.7 of sum |a| ‖b‖; dz, within
// 2^-18 of the real one, makes that 2^-16.2.
//
// Why AMX alone has such loops. Two products, of hi and lo, stand for one of f32. A Zen 4 multiplies pairs of bf16
// (VDPBF16PS) at 234 GFLOP/s a core and f32 at half of that: 117 useful beside 117, and parts are to be packed besides.
// A Xeon multiplies them at half of f32's rate (kernels/avx512_bf16_fast.cpp), a quarter of which would be useful. Four
// VNNI products of 8-bit digits, two a side, make 117 on a Zen 4 as well, and two digits do not keep the bound: nothing
// is left of a dz beside one that is 2^16 times as great, as those of ids that were picked are.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/backward_loops.hpp"

namespace isologit::detail::kernels {

constexpr std::int64_t kPartRows = 32;     // of a packed group of A
constexpr std::int64_t kPartColumns = 32;  // of a panel of B
constexpr std::int64_t kPartStep = 32;     // terms that an instruction takes
// Of a product within a piece, at most: 16 in a chain, one where two chains are added, and one for each step's hi and
// lo.
constexpr std::int64_t kPartRoundings = 16 + 1 + 2 * (kDepth / kPartStep);
static_assert(kPartRoundings == 25);
// Bytes: [step][hi, lo][two tiles of 16 rows][row][term] of a group, and of a panel
// [step][two tiles of 16 columns][pair of terms][column][2].
constexpr std::int64_t kPartGroupBytes = kPartRows * kDepth * 4;
constexpr std::int64_t kPartPanelBytes = kPartColumns * kDepth * 2;

struct PartLoops {
  // Packs `count` <= kPartColumns elements of each of `depth` rows of bf16 as a panel. Returns whether it is plain: all
  // magnitudes are below 2^50, and each row has one of at least 2^-40.
  bool (*pack_panel)(const void* const* rows, std::int64_t depth, std::int64_t count, char* panel);

  // Packs rows of A, element (row, k) being from[row * row_stride + k * depth_stride], one of these strides 1; from[]
  // may be read up to a multiple of kPartRows rows where row_stride is 1. Each row is brought to [1, 2) by a power of
  // two, unit[row]; greatest[row] is its greatest magnitude then, 0 if all are 0. Of a row that is not finite greatest
  // is NaN, and its parts are of no use.
  void (*pack_rows)(const float* from, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t rows,
                    std::int64_t depth, char* groups, float* greatest, double* unit);

  // c[row * stride + j] += unit[row] * (A B)[row][j] for j in [0, columns) and the rows that are finite.
  void (*multiply)(const char* groups, const float* greatest, const double* unit, std::int64_t rows, std::int64_t depth,
                   const char* panel, std::int64_t columns, double* c, std::int64_t stride);
};

// An element of a panel.
inline float element_of_panel(const char* panel, std::int64_t k, std::int64_t column) {
  std::uint16_t half = 0;
  std::memcpy(&half,
              panel + k / kPartStep * 2048 + column / 16 * 1024 + k % kPartStep / 2 * 64 + column % 16 * 4 + k % 2 * 2,
              sizeof half);
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

}  // namespace isologit::detail::kernels
