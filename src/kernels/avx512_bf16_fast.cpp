// AVX512-BF16, fast arithmetic: bf16 elements multiplied and added up in f32 by VDPBF16PS, for bf16 hidden states and
// weights.
//
// The order is that of kernels/panel.hpp with pairs of elements for elements: chunks of 512 pairs; within a chunk,
// lane i of one accumulator takes pairs i, i + 16, ... in turn, of each, as the instruction does it (Intel SDM; a Xeon
// does so bit for bit), first the odd element's fused multiply-add, then the even one's; the lanes are added by
// add_sums; the chunks' sums are added in turn. So a term passes through 64 + 4 + H / 1024 + 1 roundings at most, fewer
// than half of those that docs/kernels.md allows for.
//
// Rows with subnormal elements and types other than bf16 go another way: kernels/bf16_sums.hpp.
//
// Floor: 24 products and 10 loads for 768 multiply-adds. Predicted where a product takes a cycle, as on Zen 4: 24
// cycles, half of those of f32. Measured there, 2 threads, all logits of V = 151936, H = 4096: 256 rows 781 ms, 0.87
// of the rate of its products alone (whole scores 826 and, of avx512_fast, 1874). Up to eight rows meet weight rows in
// turn, whose lines are fetched far ahead: 1, 4 and 6 rows 33, 34 and 41 ms, before 50, 55 and 57 (avx512_fast
// 24, 45, 61); in another hour 8 rows 52, before 61. A Xeon with AMX takes two cycles a product, and tiles of logits
// ran at 0.9 of that rate (6 rows 0.75). Whole scores there, V=32768, H=4096, one thread that shared its core, chunks
// half as long, CPU time as a multiple of torch's bf16 pipeline confined to AVX512-BF16 in the same run, for 1, 4, 16,
// 64 and 256 rows: 0.73, 0.76, 0.89, 1.05, 1.17; avx512_fast 0.65, 0.71, 0.95, 0.87, 0.95. Weight rows are read where
// they lie up to 64 hidden rows: nothing is to be widened.
//
// Why it loses to avx512_fast there from 64 rows on: a product is four operations of that Xeon, two of which go to port
// 5 alone and two to port 0 or 5, so that it occupies for two cycles the ports that do four multiply-adds of f32
// meanwhile: 16 multiply-adds of bf16 a cycle, 32 of f32. Measured in loops of independent instructions, cycles:
// VDPBF16PS 2.0 (of 256 bits too; latency 8), a multiply-add of f32 0.5; a product with one, two and three VPERMD (port
// 5 alone) 3.1, 4.1 and 5.2, with one and two VPSRLD (port 0 alone) 2.6 and 3.1, with one to three VPADDD (either) 2.6,
// 3.1 and 3.7, with one multiply-add of f32 2.6. So AMX, or f32, is to be taken there.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/bf16_sums.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

// Registers of pairs, which are as wide as a float and moved like one.
struct Pairs {
  using Element = float;
  using V = __m512;
  static constexpr std::int64_t kWidth = 16;
  static constexpr std::int64_t kGroup = 16;
  static constexpr std::int64_t kChunk = 512;
  static constexpr std::size_t kHiddenRows = 6;
  static constexpr std::int64_t kFewRows = 64;
  static constexpr std::int64_t kRowsInTurn = 8;
  static constexpr std::size_t kWeightRows = 4;
  static V zero() { return Floats::zero(); }
  static V load(const float* from) { return Floats::load(from); }
  static V multiply_add(V a, V b, V c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static void add_sums(float* to, const V (&v)[4]) { Floats::add_sums(to, v); }
  template <DType>
  static void widen(const char* from, V (&to)[1]) {
    to[0] = _mm512_loadu_ps(from);
  }
};

// For Bf16Sums.
struct FastPairs {
  using Sums = Panel<Pairs>;

  static std::int64_t block_size(std::int64_t rows, std::int64_t size) {
    return Sums::block_size(rows, pairs_of(size));
  }
  static std::int64_t scratch_size(std::int64_t rows, std::int64_t size) {
    return kTile * pairs_of(size) + Sums::scratch_size(rows, pairs_of(size));
  }
  static std::int64_t depth(std::int64_t size) { return Sums::depth(pairs_of(size)); }
  static std::int64_t multiply_adds(std::int64_t steps) { return 2 * Sums::multiply_adds(steps); }

  static void store(const void* row, std::int64_t size, std::int64_t index, std::int64_t rows, float* block) {
    const char* from = static_cast<const char*>(row);
    float* to = block + index * Sums::kStride;
    for (std::int64_t k = 0; k < size; k += 2 * Pairs::kChunk, to += rows * Sums::kStride) {
      std::fill(to, to + Sums::kStride, 0.0F);
      if (row != nullptr)
        std::memcpy(to, from + 2 * k, static_cast<std::size_t>(2 * std::min(2 * Pairs::kChunk, size - k)));
    }
  }

  static void multiply(const float* block, std::int64_t rows, const WeightTile& tile, float* sums, float* scratch,
                       bool* usual) {
    std::fill(usual, usual + tile.count, true);
    const auto see = [&]<DType>(std::int64_t j, const char* from, std::int64_t pairs) {
      usual[j] = usual[j] && !has_subnormals(from, 2 * pairs);
    };
    const MatrixView& weight = *tile.weight;
    const bool paired = weight.cols % 2 == 0 && weight.row_stride % 2 == 0;
    const MatrixView pairs =
        paired ? MatrixView{weight.data, DType::f32, weight.rows, weight.cols / 2, weight.row_stride / 2}
               : copy(tile, scratch);
    const WeightTile of_pairs{&pairs, tile.bias, paired ? tile.first : 0, tile.count};
    Sums::sums_of<DType::f32>(block, rows, of_pairs, sums, scratch + kTile * pairs_of(weight.cols), see);
  }

 private:
  static std::int64_t pairs_of(std::int64_t size) { return (size + 1) / 2; }

  // The tile's rows, each filled up to whole pairs.
  static MatrixView copy(const WeightTile& tile, float* to) {
    const std::int64_t size = tile.weight->cols;
    const std::int64_t pairs = pairs_of(size);
    for (std::int64_t j = 0; j < tile.count; ++j) {
      float* row = to + j * pairs;
      row[pairs - 1] = 0;
      std::memcpy(row, exact::row_data(*tile.weight, tile.first + j), static_cast<std::size_t>(2 * size));
    }
    return {to, DType::f32, tile.count, pairs, pairs};
  }
};

struct PairSums : Bf16Sums<FastPairs> {};

}  // namespace

const Target& avx512_bf16_fast_target(const Entry& entry) {
  return only<F32Target<PairSums>, k_avx512_bf16_fast_shape>(entry, avx512_loops());
}

}  // namespace isologit::detail::kernels
