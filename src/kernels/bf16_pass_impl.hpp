// The passes of kernels/bf16_pass.hpp; included by one file per instruction set, which supplies `Products`.
//
// Why it is right. Elements of bf16 have 8 significant bits, so a product is exact in f32, and in a sum of products by
// fused multiply-adds only the additions round. Let r_k be the roundings that the product of elements k passes through
// at most, u = 2^-24. The computed sum is within (1 + 2^-14) u sum r_k |h_k w_k| of the real one (Higham, Accuracy and
// Stability of Numerical Algorithms, 2nd ed., section 3.1; r_k < 2^9), and by Cauchy and Schwarz that sum is at most
// the product of two numbers, one a row: |h| = sqrt(sum r_k h_k^2) and |w| likewise. They are made while a row is
// packed, by the same products, and rounded up. If sum - E and sum + E round to the same bf16, that is the result,
// rounding being monotone.
//
// The instructions count subnormal elements and results as 0, whatever the modes of the thread. In n elements the
// former lose at most 2^-126 sqrt(n) (|h| + |w|), the latter 2^-126 * 4 n. A row's number is 0 where all its elements
// are, and else at least 2^-36, so that E is above 2^-97 and covers these in its excess of 2^-9, n being at most 2^16.
// It is infinite from 2^40 on, so that no sum of two rows that are finite overflows; E is infinite or NaN then, and
// leaves the result open. A bias joins the sum in f32, one more rounding. No result within 2^-98 of 0 can be settled
// but that of a row of zeros with a bias of 0 or above 2^-100: so subnormal ends that are taken for 0 settle nothing.
//
// What is open (with n = 1024 and normal numbers about one result in 20, half of that for n = 256) is computed anew:
// kernels/bf16_open_impl.hpp.
//
// Floor: a multiply-add a product. Rounding and transposing take half a cycle a result, as much as 256 products of
// TDPBF16PS; packing the weight 0.1 cycles an element for all rows of a block.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "exact/logit.hpp"
#include "kernels/avx512_vectors.hpp"
#include "kernels/bf16_open_impl.hpp"
#include "kernels/bf16_pass.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::kernels {
namespace {

// What Products supplies: sums of steps are added to a chunk's in turn, kStepSums of each, those of kChunkSteps to the
// whole; pair_roundings(p), the roundings of the products of pair p of a step but for these additions, kStepSums of its
// own step being counted among them; and multiply, which makes the sums of a block (results, below). Everything else is
// here.
template <class Products>
struct Bf16Results {
  static constexpr std::int64_t kStep = 32;         // elements that are multiplied together: sixteen pairs
  static constexpr std::int64_t kStepBytes = 1024;  // of sixteen rows
  static constexpr std::int64_t kChunkSteps = Products::kChunkSteps;
  static constexpr std::int64_t kBlockGroups = 16;                         // of hidden, whose sums are kept at a time
  static constexpr std::int64_t kMostColumns = 256 * kChunkSteps * kStep;  // so that r_k < 2^9

  static std::int64_t steps_of(std::int64_t size) { return (size + kStep - 1) / kStep; }
  static std::int64_t group_count(std::int64_t rows) { return (rows + kBf16Group - 1) / kBf16Group; }

  // Of rows, in turn: |x| with r_k as weights, and without.
  struct Norms {
    float weighted;
    float plain;
  };

  // Prepared: pairs[group][step][pair][16 rows], weighted[row], plain[row].
  struct Prepared {
    Prepared(const void* from, std::int64_t rows, std::int64_t size)
        : pairs(static_cast<const char*>(from)),
          group_bytes(steps_of(size) * kStepBytes),
          weighted(reinterpret_cast<const float*>(pairs + group_count(rows) * group_bytes)),
          plain(weighted + group_count(rows) * kBf16Group) {}
    const char* pairs;
    std::int64_t group_bytes;
    const float* weighted;
    const float* plain;
  };

  // sums[group][weight row][16 rows]; open[weight row]: rows whose result is open; packed[group of 16 weight
  // rows][step][row][32 elements].
  struct Scratch {
    explicit Scratch(void* from)
        : sums(static_cast<float*>(from)),
          open(reinterpret_cast<std::uint32_t*>(sums + kBlockGroups * kBf16Tile * kBf16Group)),
          packed(reinterpret_cast<char*>(open + kBf16Tile * kOpenStride)) {}
    static constexpr std::int64_t kOpenStride = (kBlockGroups + 1) * kBf16Group;
    static std::size_t bytes(std::int64_t size) {
      return static_cast<std::size_t>(kBlockGroups * kBf16Tile * kBf16Group * 4 + kBf16Tile * kOpenStride * 4 +
                                      kBf16Tile / 16 * steps_of(size) * kStepBytes);
    }
    float* sums;
    std::uint32_t* open;
    char* packed;
  };

  static std::size_t prepared_bytes(std::int64_t rows, std::int64_t size) {
    return static_cast<std::size_t>(group_count(rows) * (steps_of(size) * kStepBytes + 2 * kBf16Group * 4));
  }
  static std::size_t scratch_bytes(std::int64_t, std::int64_t size) { return Scratch::bytes(size); }

  static float upper_norm(__m512 squares) {
    const float sum = _mm512_reduce_add_ps(squares);
    if (!(sum <= 0x1p80F)) return std::numeric_limits<float>::infinity();
    return std::max(std::sqrt(sum) * (1 + 0x1p-11F), 0x1p-36F);
  }

  // store(step, elements) is called for all steps of the row, the last one filled up with zeros.
  template <class Store>
  static Norms norms_of(const char* row, std::int64_t size, Store&& store) {
    __m512 total = _mm512_setzero_ps();  // of squares
    __m512 within = total;               // each times the steps from its own to the end of its chunk
    __m512 across = total;               // each times the chunks from its own on
    __m512i any = _mm512_setzero_si512();
    const std::int64_t steps = steps_of(size);
    for (std::int64_t first = 0; first < steps; first += kChunkSteps) {
      __m512 squares = _mm512_setzero_ps();
      for (std::int64_t s = first; s < std::min(first + kChunkSteps, steps); ++s) {
        prefetch(row + s * 64);
        const __m512i elements = load_elements(row + s * 64, size - s * kStep);
        any = _mm512_or_si512(any, elements);
        squares = multiply_add_pairs(squares, elements, elements);
        within = _mm512_add_ps(within, squares);
        store(s, elements);
      }
      total = _mm512_add_ps(total, squares);
      across = _mm512_add_ps(across, total);
    }
    if (_mm512_test_epi16_mask(any, _mm512_set1_epi16(0x7FFF)) == 0) return {0, 0};
    float places[16];
    for (std::int64_t p = 0; p < 16; ++p) places[p] = static_cast<float>(Products::pair_roundings(p));
    const __m512 sums = _mm512_fmadd_ps(within, _mm512_set1_ps(Products::kStepSums), across);
    const __m512 weighted = _mm512_fmadd_ps(total, _mm512_loadu_ps(places), sums);
    return {upper_norm(weighted), upper_norm(total)};
  }

  static void prepare(const MatrixView& hidden, std::int64_t group, void* prepared) {
    const Prepared to(prepared, hidden.rows, hidden.cols);
    char* pairs = const_cast<char*>(to.pairs) + group * to.group_bytes;
    const char* rows[kBf16Group];
    for (std::int64_t i = 0; i < kBf16Group; ++i) {
      const std::int64_t row = group * kBf16Group + i;
      rows[i] = row < hidden.rows ? static_cast<const char*>(exact::row_data(hidden, row)) : nullptr;
      const Norms norms =
          rows[i] == nullptr ? Norms{0, 0} : norms_of(rows[i], hidden.cols, [](std::int64_t, __m512i) {});
      const_cast<float*>(to.weighted)[row] = norms.weighted;
      const_cast<float*>(to.plain)[row] = norms.plain;
    }
    for (std::int64_t s = 0; s < steps_of(hidden.cols); ++s) {
      __m512i words[16];
      for (std::size_t i = 0; i < 16; ++i) {
        words[i] =
            rows[i] == nullptr ? _mm512_setzero_si512() : load_elements(rows[i] + s * 64, hidden.cols - s * kStep);
      }
      transpose(words);
      for (std::int64_t p = 0; p < 16; ++p) {
        _mm512_storeu_si512(pairs + s * kStepBytes + p * 64, words[static_cast<std::size_t>(p)]);
      }
    }
  }

  static void pack(const WeightTile& tile, char* packed, Bf16Weight& weight) {
    const std::int64_t size = tile.weight->cols;
    for (std::int64_t j = 0; j < kBf16Tile; ++j) {
      char* to = packed + j / 16 * steps_of(size) * kStepBytes + j % 16 * 64;
      weight.weighted[j] = 0;
      weight.plain[j] = 0;
      weight.bias[j] = 0;
      if (j >= tile.count) {
        for (std::int64_t s = 0; s < steps_of(size); ++s) std::memset(to + s * kStepBytes, 0, 64);
        continue;
      }
      const char* row = static_cast<const char*>(exact::row_data(*tile.weight, tile.first + j));
      const Norms norms = norms_of(
          row, size, [&](std::int64_t s, __m512i elements) { _mm512_storeu_si512(to + s * kStepBytes, elements); });
      weight.weighted[j] = norms.weighted;
      weight.plain[j] = norms.plain;
      if (tile.bias->data == nullptr) continue;
      weight.bias[j] = exact::load_element(tile.bias->data, tile.bias->dtype, tile.first + j);
      const bool tiny = weight.bias[j] != 0 && std::fabs(weight.bias[j]) < 0x1p-100F;
      if (tiny) weight.weighted[j] = std::numeric_limits<float>::infinity();
    }
  }

  // Of one weight row and sixteen hidden rows: the two ends, and where they are numbers or infinite.
  struct Ends {
    __m512 low;
    __m512 high;
    __mmask16 ordered;
  };
  static Ends ends(const float* sums, float bias, float norm, __m512 hidden_norms) {
    const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_set1_ps(bias));
    const __m512 bound = _mm512_mul_ps(_mm512_set1_ps(norm * (1 + 0x1p-9F) * 0x1p-24F), hidden_norms);
    const __m512 error = _mm512_fmadd_ps(_mm512_abs_ps(sum), _mm512_set1_ps(0x1p-22F), bound);
    const __m512 low = _mm512_sub_ps(sum, error);
    const __m512 high = _mm512_add_ps(sum, error);
    return {low, high, _mm512_cmp_ps_mask(low, high, _CMP_ORD_Q)};
  }

  // Rounds the sums of one group and writes them; what is open is listed by weight row.
  static void round(const float* sums, const Prepared& hidden, std::int64_t first_row, std::int64_t rows,
                    const Bf16Weight& weight, std::int64_t count, const Bf16Output& to, const Scratch& own,
                    std::int64_t (&open)[kBf16Tile]) {
    const __m512 norms = _mm512_loadu_ps(hidden.weighted + first_row);
    const auto real_rows = static_cast<std::uint32_t>((std::uint32_t{1} << rows) - 1);
    const __m512i ids = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first_row)),
                                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    alignas(64) static constexpr std::uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                                  21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                                  11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i interleave = _mm512_loadu_si512(kInterleave);
    const auto list = [&](std::int64_t j, std::uint32_t which) {
      std::uint32_t* at = own.open + j * Scratch::kOpenStride + open[j];
      const __m512i places = _mm512_or_si512(ids, _mm512_set1_epi32(static_cast<int>(j * OpenResults::kPlace)));
      _mm512_storeu_si512(at, _mm512_maskz_compress_epi32(static_cast<__mmask16>(which), places));
      open[j] += std::popcount(which);
    };
    for (std::int64_t j = 0; j < count; j += 32) {
      __m512i words[16];
      for (std::int64_t i = 0; i < 16; ++i) {
        const std::int64_t even = j + 2 * i;
        const Ends a = ends(sums + even * 16, weight.bias[even], weight.weighted[even], norms);
        const Ends b = ends(sums + (even + 1) * 16, weight.bias[even + 1], weight.weighted[even + 1], norms);
        const auto low = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.low, a.low));
        const auto high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.high, a.high));
        const std::uint32_t differ = _mm512_cmpneq_epi16_mask(low, high);
        words[i] = _mm512_permutexvar_epi16(interleave, low);
        if (even < count) list(even, (differ | ~std::uint32_t{a.ordered}) & real_rows);
        if (even + 1 < count) list(even + 1, (differ >> 16 | ~std::uint32_t{b.ordered}) & real_rows);
      }
      transpose(words);
      const std::int64_t held = std::min<std::int64_t>(32, count - j);
      const auto mask = static_cast<__mmask32>(0xFFFFFFFFU >> (32 - held));
      for (std::int64_t r = 0; r < rows; ++r) {
        char* at = to.data + ((first_row + r) * to.row_stride + j) * 2;
        _mm512_mask_storeu_epi16(at, mask, words[static_cast<std::size_t>(r)]);
      }
    }
  }

  static void results(const MatrixView& hidden, const void* prepared, const WeightTile& tile, const Bf16Output& to,
                      void* scratch, Counts& counts) {
    const Prepared from(prepared, hidden.rows, hidden.cols);
    const Scratch own(scratch);
    Bf16Weight weight;
    pack(tile, own.packed, weight);
    const std::int64_t groups = group_count(hidden.rows);
    for (std::int64_t g = 0; g < groups; g += kBlockGroups) {
      const std::int64_t held = std::min(kBlockGroups, groups - g);
      Products::multiply(from.pairs + g * from.group_bytes, held, own.packed, steps_of(hidden.cols), own.sums);
      std::int64_t open[kBf16Tile] = {};
      for (std::int64_t i = 0; i < held; ++i) {
        const std::int64_t first = (g + i) * kBf16Group;
        round(own.sums + i * kBf16Tile * 16, from, first, std::min(kBf16Group, hidden.rows - first), weight, tile.count,
              to, own, open);
      }
      const OpenResults left(hidden, from.plain, tile, weight, to);
      std::int64_t count = 0;  // the lists become one
      for (std::int64_t j = 0; j < tile.count; ++j) {
        std::memmove(own.open + count, own.open + j * Scratch::kOpenStride, static_cast<std::size_t>(open[j]) * 4);
        count += open[j];
      }
      left.settle(own.open, count, counts);
    }
  }

  static constexpr Bf16Pass pass(std::int64_t fewest_rows) {
    return {fewest_rows, kMostColumns, prepared_bytes, scratch_bytes, prepare, results};
  }
};

}  // namespace
}  // namespace isologit::detail::kernels
