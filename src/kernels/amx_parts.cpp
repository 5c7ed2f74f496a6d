// AMX: backward's fast sums by TDPBF16PS (kernels/part_loops.hpp), 32 rows by 32 columns at a time.
//
// The order of a piece: steps of 32 terms; in a step first hi, then lo, each as the instruction does it (see
// kernels/amx_fast.cpp): two chains of 16 from 0, added to one another and to the sum. That is kPartRoundings.
//
// Floor: eight products of 16 cycles for 32 x 32 x 32 terms, 256 multiply-adds of f32 by bf16 a cycle, where AVX-512
// does 32. Beside them six loads of 8 cycles a step, and a piece's 1024 sums to be added to f64 in L2.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/amx_tiles.hpp"
#include "kernels/avx512_vectors.hpp"
#include "kernels/part_loops.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace parts {
namespace {

using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using Halves = std::uint16_t __attribute__((vector_size(64)));

constexpr std::int64_t kSteps = kDepth / kPartStep;
constexpr std::int64_t kHiToLo = 2 * kTileBytes;
constexpr std::int64_t kStepBytes = 2 * kHiToLo;  // of a group of A
constexpr std::int64_t kPanelStepBytes = 2 * kTileBytes;
static_assert(kSteps * kStepBytes == kPartGroupBytes && kSteps * kPanelStepBytes == kPartPanelBytes);

template <class To, class From>
inline To as(const From& from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// The two parts of a finite x as the upper halves of words.
struct Parts {
  Words hi;
  Words lo;
};

inline Words nearest(Words bits) { return (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000; }

inline Parts split(Floats x) {
  const Words hi = nearest(as<Words>(x));
  return {hi, nearest(as<Words>(x - as<Floats>(hi)))};
}

// Two exact factors whose product is 2^-e, e the exponent of the greatest magnitude; 1 for rows that are 0 or not
// finite.
struct Factors {
  float first = 1;
  float second = 1;
};

// Sets a row's greatest and unit from the bits of its greatest magnitude.
Factors scale(std::uint32_t most, float* greatest, double* unit) {
  const auto value = static_cast<double>(as<float>(most));
  *unit = 1;
  *greatest = as<float>(most);
  if (most == 0) return {};
  if (!std::isfinite(value)) {
    *greatest = std::numeric_limits<float>::quiet_NaN();
    return {};
  }
  const int e = std::ilogb(value);
  *unit = std::ldexp(1.0, e);
  *greatest = static_cast<float>(std::ldexp(value, -e));
  return {static_cast<float>(std::ldexp(1.0, -e / 2)), static_cast<float>(std::ldexp(1.0, e / 2 - e))};
}

// Rows whose terms lie side by side.
void pack_long_row(const float* from, std::int64_t depth, char* to, float* greatest, double* unit) {
  alignas(64) float terms[kDepth];
  std::memcpy(terms, from, static_cast<std::size_t>(depth) * sizeof(float));
  std::fill(terms + depth, terms + kDepth, 0.0F);
  Words most = {};
  for (std::int64_t k = 0; k < kDepth; k += 16) {
    const Words size = load<Words>(terms + k) & 0x7FFFFFFF;
    most = size > most ? size : most;
  }
  std::uint32_t all = 0;
  for (int lane = 0; lane < 16; ++lane) all = std::max(all, most[lane]);
  const Factors factors = scale(all, greatest, unit);
  for (std::int64_t s = 0; s < kSteps; ++s, to += kStepBytes) {
    const float* step = terms + s * kPartStep;
    const Parts low = split(load<Floats>(step) * factors.first * factors.second);
    const Parts high = split(load<Floats>(step + 16) * factors.first * factors.second);
    const auto halves = [](Words a, Words b) {
      return __builtin_shufflevector(as<Halves>(a), as<Halves>(b), 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                     29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63);
    };
    const Halves hi = halves(low.hi, high.hi);
    const Halves lo = halves(low.lo, high.lo);
    std::memcpy(to, &hi, sizeof hi);
    std::memcpy(to + kHiToLo, &lo, sizeof lo);
  }
}

// Sixteen rows that lie side by side, of which `rows` count.
void pack_wide_rows(const float* from, std::int64_t depth_stride, std::int64_t rows, std::int64_t depth, char* to,
                    float* greatest, double* unit) {
  Words counts = {};
  for (std::int64_t lane = 0; lane < std::min<std::int64_t>(rows, 16); ++lane) counts[lane] = 0xFFFFFFFF;
  const auto terms = [&](std::int64_t k) {
    return k < depth ? load<Words>(from + k * depth_stride) & counts : Words{};
  };
  Words most = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const Words size = terms(k) & 0x7FFFFFFF;
    most = size > most ? size : most;
  }
  Floats first = {};
  Floats second = {};
  for (int lane = 0; lane < 16; ++lane) {
    float own_greatest = 0;
    double own_unit = 1;
    const Factors factors = scale(most[lane], &own_greatest, &own_unit);
    first[lane] = factors.first;
    second[lane] = factors.second;
    if (lane >= rows) continue;
    greatest[lane] = own_greatest;
    unit[lane] = own_unit;
  }
  for (std::int64_t s = 0; s < kSteps; ++s, to += kStepBytes) {
    __m512i hi[16];
    __m512i lo[16];
    for (std::int64_t pair = 0; pair < 16; ++pair) {
      const std::int64_t k = s * kPartStep + 2 * pair;
      const Parts even = split(as<Floats>(terms(k)) * first * second);
      const Parts odd = split(as<Floats>(terms(k + 1)) * first * second);
      hi[pair] = as<__m512i>(even.hi >> 16 | odd.hi);
      lo[pair] = as<__m512i>(even.lo >> 16 | odd.lo);
    }
    transpose(hi);  // [pair][row] to [row][pair]
    transpose(lo);
    std::memcpy(to, hi, sizeof hi);
    std::memcpy(to + kHiToLo, lo, sizeof lo);
  }
}

void pack_rows(const float* from, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t rows,
               std::int64_t depth, char* groups, float* greatest, double* unit) {
  if (depth_stride == 1) {
    for (std::int64_t r = 0; r < rows; ++r) {
      char* to = groups + r / kPartRows * kPartGroupBytes + r % kPartRows / kSide * kTileBytes + r % kSide * 64;
      pack_long_row(from + r * row_stride, depth, to, greatest + r, unit + r);
    }
    return;
  }
  for (std::int64_t r = 0; r < rows; r += kSide) {
    char* to = groups + r / kPartRows * kPartGroupBytes + r % kPartRows / kSide * kTileBytes;
    pack_wide_rows(from + r, depth_stride, rows - r, depth, to, greatest + r, unit + r);
  }
}

bool pack_panel(const void* const* rows, std::int64_t depth, std::int64_t count, char* panel) {
  constexpr std::uint16_t kMost = (127 + 50) << 7;
  constexpr std::uint16_t kLeast = (127 - 40) << 7;
  Halves most = {};
  bool plain = true;
  const auto row = [&](std::int64_t k) {
    Halves elements = {};
    if (k >= depth) return elements;
    if (count == kPartColumns) {
      elements = load<Halves>(rows[k]);
    } else {
      std::memcpy(&elements, rows[k], static_cast<std::size_t>(count) * 2);
    }
    const Halves size = elements & 0x7FFF;
    most = size > most ? size : most;
    plain = plain && _mm512_cmpge_epu16_mask(as<__m512i>(size), _mm512_set1_epi16(static_cast<short>(kLeast))) != 0;
    return elements;
  };
  for (std::int64_t k = 0; k < kDepth; k += 2, panel += 64) {
    if (k % kPartStep == 0 && k > 0) panel += kTileBytes;
    const Halves even = row(k);
    const Halves odd = row(k + 1);
    const Halves left = __builtin_shufflevector(even, odd, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8,
                                                40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
    const Halves right = __builtin_shufflevector(even, odd, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23,
                                                 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
    std::memcpy(panel, &left, sizeof left);
    std::memcpy(panel + kTileBytes, &right, sizeof right);
  }
  return plain && _mm512_cmpge_epu16_mask(as<__m512i>(most), _mm512_set1_epi16(static_cast<short>(kMost))) == 0;
}

// Tiles 0 to 3 are the sums, 4 and 5 hold columns of B, 6 and 7 rows of A.
void multiply_group(const char* group, const char* panel, std::int64_t steps, float* block) {
  clear_sums();
  for (std::int64_t s = 0; s < steps; ++s, group += kStepBytes, panel += kPanelStepBytes) {
    _tile_loadd(4, panel, 64);
    _tile_loadd(5, panel + kTileBytes, 64);
    _tile_loadd(6, group, 64);
    _tile_loadd(7, group + kTileBytes, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_dpbf16ps(1, 6, 5);
    _tile_dpbf16ps(2, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
    _tile_loadd(6, group + kHiToLo, 64);
    _tile_loadd(7, group + kHiToLo + kTileBytes, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_dpbf16ps(1, 6, 5);
    _tile_dpbf16ps(2, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
  }
  constexpr std::int64_t kRowBytes = kPartColumns * 4;
  _tile_stored(0, block, kRowBytes);
  _tile_stored(1, block + kSide, kRowBytes);
  _tile_stored(2, block + kSide * kPartColumns, kRowBytes);
  _tile_stored(3, block + kSide * kPartColumns + kSide, kRowBytes);
  memory_is_needed();
}

void multiply(const char* groups, const float* greatest, const double* unit, std::int64_t rows, std::int64_t depth,
              const char* panel, std::int64_t columns, double* c, std::int64_t stride) {
  alignas(64) float block[kPartRows * kPartColumns];
  const std::int64_t steps = (depth + kPartStep - 1) / kPartStep;
  memory_is_needed();
  const TileRegisters registers;
  for (std::int64_t first = 0; first < rows; first += kPartRows, groups += kPartGroupBytes) {
    multiply_group(groups, panel, steps, block);
    for (std::int64_t r = first; r < std::min(first + kPartRows, rows); ++r) {
      if (std::isnan(greatest[r])) continue;
      const float* from = block + (r - first) * kPartColumns;
      double* to = c + r * stride;
      if (columns == kPartColumns) {  // a constant count: vector code
        for (std::int64_t j = 0; j < kPartColumns; ++j) to[j] += static_cast<double>(from[j]) * unit[r];
      } else {
        for (std::int64_t j = 0; j < columns; ++j) to[j] += static_cast<double>(from[j]) * unit[r];
      }
    }
  }
}

constexpr PartLoops kPartLoops{pack_panel, pack_rows, multiply};

}  // namespace
}  // namespace parts

const PartLoops& amx_part_loops() { return parts::kPartLoops; }

}  // namespace isologit::detail::kernels
