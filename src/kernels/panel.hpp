// Sums of products of a block of hidden rows and a tile of weight rows, each sum in an order of its own that neither
// the number of rows nor their place has a say in. Included by one file per instruction set, which supplies `Vector`:
//
//   Element          double or float
//   V, kWidth        a register of so many elements
//   kGroup           elements that are widened together, a multiple of kWidth
//   kHiddenRows      how many hidden rows 4 weight rows meet at a time: 4 * kHiddenRows accumulators fit the registers
//   kFewRows         up to so many hidden rows, weight rows are widened in registers, anew for each 4 kHiddenRows /
//                    kWeightRows of them
//   kWeightRows      4 or 2: how many weight rows few hidden rows meet at a time; 2 where widening is dear
//   zero, load, multiply_add
//   add_sums(to, v)  to[i] += the sum of v[i], for 4 registers
//   widen<dtype>(from, v)   kGroup elements at `from`, which need not be aligned, as kGroup / kWidth registers, in any
//                           order that is the same for all dtypes
//   part<dtype>(from, p)    optional: register p of what widen makes, where all of them at once are too many
//   kRowsInTurn      optional: up to so many hidden rows meet weight rows one after the other
//   kChunk           optional: elements of a chunk, else 256
//   kUnscale         optional: what hidden rows are multiplied by, twice, after widen, whose values are scaled by its
//                    inverse. An inf or NaN of a weight row may come out as any number
//
// Everything is in an unnamed namespace, so code compiled for one instruction set cannot be linked into another's.
//
// The order: the elements of k, as widen puts them, are taken in chunks of kChunk. Within a chunk, lane i of one
// accumulator adds up the products of elements i, i + kWidth, ... in turn; the lanes are added by add_sums; the chunks'
// sums are added in turn. So no term passes through more than depth(size) roundings.
//
// Two ways through the same order, which both fetch what they read next. Few hidden rows: weight rows are widened in
// registers as they are read, panel by panel (bound by reading the weight). Many: a panel of weight rows is widened to
// memory, one chunk of the hidden block at a time, so that it stays in L2 while all panels of the tile pass (bound by
// multiply-adds: 4 + kHiddenRows loads for 4 * kHiddenRows of them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "exact/element.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kChunk = 256;
constexpr std::int64_t kPanel = 8;  // weight rows widened together: 17 KB of doubles, stays in L1
constexpr std::int64_t kTile = 64;
constexpr std::int64_t kInTurn = 4;  // weight rows that very few hidden rows meet one after the other

constexpr std::int64_t chunks_of(std::int64_t size, std::int64_t length) { return (size + length - 1) / length; }

template <class Vector>
struct Panel {
  // The most hidden rows of a block: one chunk of them, 253 KB, stays in L2.
  static constexpr std::int64_t kBlockRows = 960 / static_cast<std::int64_t>(sizeof(typename Vector::Element));
  using Element = typename Vector::Element;
  using V = typename Vector::V;
  static constexpr std::int64_t kWidth = Vector::kWidth;
  static constexpr std::int64_t kGroup = Vector::kGroup;
  static constexpr auto kParts = static_cast<std::size_t>(kGroup / kWidth);
  static constexpr std::int64_t kLength = [] {
    if constexpr (requires { Vector::kChunk; }) return Vector::kChunk;
    return kChunk;
  }();
  // 64 bytes more keep rows of a chunk out of one another's cache sets.
  static constexpr std::int64_t kStride = kLength + 64 / static_cast<std::int64_t>(sizeof(Element));

  // The roundings that a term of a sum over `size` elements passes through at most, where a multiply_add counts as two
  // (it is one where it is fused).
  static constexpr std::int64_t depth(std::int64_t size) {
    return 2 * kLength / kWidth + kWidth + chunks_of(size, kLength);
  }

  // Elements of a prepared block of rows, and of the scratch that `sums` takes for it.
  static std::int64_t block_size(std::int64_t rows, std::int64_t size) {
    return chunks_of(size, kLength) * rows * kStride;
  }
  static constexpr std::int64_t scratch_size(std::int64_t, std::int64_t) { return kPanel * kStride; }

  // Writes the sum of row r of the block and row j of the tile as terms of exact_sum, as far as `sums` has left them in
  // the scratch, at most kMostTerms, and returns how many; 0 where it has not, as here, where all sums are rounded.
  static constexpr std::int64_t kMostTerms = 0;
  static std::int64_t exact_terms(const Element*, std::int64_t, const WeightTile&, std::int64_t, std::int64_t, Element*,
                                  double*) {
    return 0;
  }

  static std::int64_t count_at(std::int64_t k, std::int64_t size) { return size - k < kLength ? size - k : kLength; }

  // `count` elements, followed by zeros to the end of the group.
  template <DType kDType>
  static void widen_chunk(const char* from, std::int64_t count, Element* to) {
    const std::int64_t whole = count / kGroup * kGroup;
    for (std::int64_t k = 0; k < whole; k += kGroup) {
      widen_group<kDType>(from + k * static_cast<std::int64_t>(dtype_size(kDType)), to + k);
    }
    if (whole == count) return;
    Tail<kDType> tail;
    widen_group<kDType>(tail.fill(from, whole, count), to + whole);
  }

  template <DType kDType>
  static void widen_group(const char* from, Element* to) {
    V parts[kParts];
    Vector::template widen<kDType>(from, parts);
    // One by one and unrolled: GCC 12 copies an array by way of the stack.
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kParts; ++p) {
      std::memcpy(to + static_cast<std::int64_t>(p) * kWidth, &parts[p], sizeof parts[p]);
    }
  }

  // Elements [k, k + count) of a row, at most a chunk, and zeros to the end of the group.
  static void widen_at(const void* row, DType dtype, std::int64_t k, std::int64_t count, Element* to) {
    exact::with_dtype(dtype, [&]<DType kDType>() {
      widen_chunk<kDType>(static_cast<const char*>(row) + k * static_cast<std::int64_t>(dtype_size(kDType)), count, to);
    });
  }

  // Row `index` of a block of `rows`: block[chunk][row][kStride].
  static void prepare(const void* row, DType dtype, std::int64_t size, std::int64_t index, std::int64_t rows,
                      Element* block) {
    Element* to = block + index * kStride;
    for (std::int64_t k = 0; k < size; k += kLength, to += rows * kStride) {
      const std::int64_t count = count_at(k, size);
      widen_at(row, dtype, k, count, to);
      if constexpr (requires { Vector::kUnscale; }) {
        const std::int64_t padded = (count + kGroup - 1) / kGroup * kGroup;
        for (std::int64_t i = 0; i < padded; ++i) to[i] = to[i] * Vector::kUnscale * Vector::kUnscale;
      }
    }
  }

  // sums[r * kTile + j] = sum over k of the tile's weight row j and hidden row r, for all rows of the block; what is
  // past tile.count is not meaningful. see<dtype>(j, from, count) is called for all of weight row j, part by part,
  // while it is in a cache. Returns how many roundings a term passed through at most.
  template <class See>
  static std::int64_t sums(const Element* block, std::int64_t rows, const WeightTile& tile, Element* sums,
                           Element* scratch, See&& see) {
    exact::with_dtype(tile.weight->dtype,
                      [&]<DType kDType>() { sums_of<kDType>(block, rows, tile, sums, scratch, see); });
    return depth(tile.weight->cols);
  }

  // The same where the type of the weight is known.
  template <DType kDType, class See>
  static void sums_of(const Element* block, std::int64_t rows, const WeightTile& tile, Element* sums, Element* scratch,
                      See& see) {
    std::memset(sums, 0, static_cast<std::size_t>(rows * kTile) * sizeof(Element));
    if (rows <= Vector::kFewRows) {
      sums_few<kDType>(block, rows, tile, sums, scratch, see);
    } else {
      sums_many<kDType>(block, rows, tile, sums, scratch, see);
    }
  }

  // Kernel::multiply_adds: the accumulators of multiply_4, without its loads.
  static std::int64_t multiply_adds(std::int64_t steps) {
    constexpr std::size_t kSums = Vector::kHiddenRows * 4;
    V sum[kSums];
    Element values[static_cast<std::size_t>(kWidth)] = {};
    asm volatile("" : "+m"(values));  // so that nothing is known of them
    const V factor = Vector::load(values);
    for (std::size_t i = 0; i < kSums; ++i) sum[i] = factor;
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32  // or GCC 12 keeps the sums in memory
      for (std::size_t i = 0; i < kSums; ++i) sum[i] = Vector::multiply_add(sum[i], factor, factor);
    }
    V total = factor;
    for (std::size_t i = 0; i < kSums; ++i) total = Vector::multiply_add(sum[i], factor, total);
    asm volatile("" : "+m"(total));  // so that the sums are needed
    return steps * static_cast<std::int64_t>(kSums) * kWidth;
  }

 private:
  // What is left of a chunk after its last whole group, and zeros.
  template <DType kDType>
  struct Tail {
    const char* fill(const char* from, std::int64_t whole, std::int64_t count) {
      constexpr auto kSize = dtype_size(kDType);
      std::memcpy(bytes, from + whole * static_cast<std::int64_t>(kSize),
                  static_cast<std::size_t>(count - whole) * kSize);
      return bytes;
    }
    alignas(64) char bytes[static_cast<std::size_t>(kGroup) * dtype_size(kDType)] = {};
  };

  // One chunk of 4 widened weight rows and kH hidden rows.
  template <std::size_t kH>
  static void multiply_4(const Element* weight, const Element* hidden, std::int64_t count, Element* sums) {
    V sum[kH][4];
    for (auto& row : sum) {
      for (V& v : row) v = Vector::zero();
    }
    for (std::int64_t k = 0; k < count; k += kWidth) {
      V h[kH];
      for (std::size_t r = 0; r < kH; ++r) h[r] = Vector::load(hidden + static_cast<std::int64_t>(r) * kStride + k);
      for (std::size_t j = 0; j < 4; ++j) {
        const V w = Vector::load(weight + static_cast<std::int64_t>(j) * kStride + k);
        for (std::size_t r = 0; r < kH; ++r) sum[r][j] = Vector::multiply_add(w, h[r], sum[r][j]);
      }
    }
    for (std::size_t r = 0; r < kH; ++r) Vector::add_sums(sums + static_cast<std::int64_t>(r) * kTile, sum[r]);
  }

  // The rows that are left after the last kHiddenRows.
  template <std::size_t kH>
  static void multiply_rest(const Element* weight, const Element* hidden, std::int64_t count, std::int64_t rows,
                            Element* sums) {
    if constexpr (kH > 0) {
      if (rows != static_cast<std::int64_t>(kH)) {
        return multiply_rest<kH - 1>(weight, hidden, count, rows, sums);
      }
      for (std::int64_t j = 0; j < kPanel; j += 4) multiply_4<kH>(weight + j * kStride, hidden, count, sums + j);
    }
  }

  template <DType kDType, class See>
  static void sums_many(const Element* block, std::int64_t rows, const WeightTile& tile, Element* sums, Element* panel,
                        See& see) {
    constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
    constexpr auto kH = static_cast<std::int64_t>(Vector::kHiddenRows);
    const std::int64_t size = tile.weight->cols;
    for (std::int64_t k = 0; k < size; k += kLength, block += rows * kStride) {
      const std::int64_t count = count_at(k, size);
      const std::int64_t padded = (count + kGroup - 1) / kGroup * kGroup;
      for (std::int64_t j = 0; j < tile.count; j += kPanel) {
        for (std::int64_t i = 0; i < kPanel; ++i) {
          // Past the tile's end, its last row again.
          const std::int64_t row = tile.first + (j + i < tile.count ? j + i : tile.count - 1);
          const char* from = static_cast<const char*>(exact::row_data(*tile.weight, row)) + k * kSize;
          widen_chunk<kDType>(from, count, panel + i * kStride);
          if (j + i < tile.count) see.template operator()<kDType>(j + i, from, count);
        }
        NextRows next = after(tile, k, j, kSize);
        const std::int64_t lines = lines_each(kPanel * kLength * kSize, (rows + kH - 1) / kH * 2);
        std::int64_t r = 0;
        for (; r + kH <= rows; r += kH) {
          for (std::int64_t i = 0; i < kPanel; i += 4) {
            next.fetch(lines);
            multiply_4<Vector::kHiddenRows>(panel + i * kStride, block + r * kStride, padded, sums + r * kTile + j + i);
          }
        }
        next.fetch(2 * lines);
        multiply_rest<Vector::kHiddenRows - 1>(panel, block + r * kStride, padded, rows - r, sums + r * kTile + j);
      }
    }
  }

  // What sums_many reads after the panel of row j at element k.
  static NextRows after(const WeightTile& tile, std::int64_t k, std::int64_t j, std::int64_t element) {
    const bool last_panel = j + kPanel >= tile.count;
    const bool last_chunk = k + kLength >= tile.weight->cols;
    const std::int64_t row = !last_panel ? j + kPanel : last_chunk ? tile.count : 0;
    const std::int64_t at = !last_panel ? k : last_chunk ? 0 : k + kLength;
    const std::int64_t stride = tile.weight->row_stride * element;
    const auto* first = static_cast<const char*>(exact::row_data(*tile.weight, tile.first));
    return {first + row * stride + at * element, stride, kPanel, kLength * element};
  }

  static std::int64_t lines_each(std::int64_t bytes, std::int64_t calls) { return (bytes / kLine + calls - 1) / calls; }

  // sums[r * kTile + j] += the sum of v[r][j].
  template <std::size_t kW, std::size_t kH>
  static void add_all(const V (&v)[kH][kW], Element* sums) {
    if constexpr (kW == 4) {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kH; ++r) Vector::add_sums(sums + static_cast<std::int64_t>(r) * kTile, v[r]);
    } else {
      constexpr std::size_t kSums = kW * kH;
      for (std::size_t i = 0; i < kSums; i += 4) {
        V four[4];
        Element totals[4] = {};
        for (std::size_t p = 0; p < 4; ++p) four[p] = i + p < kSums ? v[(i + p) / kW][(i + p) % kW] : Vector::zero();
        Vector::add_sums(totals, four);
        for (std::size_t p = i; p < i + 4 && p < kSums; ++p) sums[p / kW * kTile + p % kW] += totals[p - i];
      }
    }
  }

  // One chunk, of whole groups, of kW weight rows, widened as they are read, and kH hidden rows.
  template <DType kDType, std::size_t kW, std::size_t kH>
  static void multiply_narrow(const char* const* weight, const Element* hidden, std::int64_t count, Element* sums,
                              std::int64_t ahead) {
    constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
    V sum[kH][kW];
    for (auto& row : sum) {
      for (V& v : row) v = Vector::zero();
    }
    for (std::int64_t k = 0; k < count; k += kGroup) {
      if constexpr (requires { Vector::template part<kDType>(weight[0], 0); }) {
        for (std::size_t j = 0; j < kW; ++j) {
          if (k * kSize % kLine == 0) prefetch(weight[j] + k * kSize, ahead);
        }
#pragma GCC unroll 4
        for (std::size_t p = 0; p < kParts; ++p) {
          V w[kW];
          for (std::size_t j = 0; j < kW; ++j) w[j] = Vector::template part<kDType>(weight[j] + k * kSize, p);
          for (std::size_t r = 0; r < kH; ++r) {
            const Element* at = hidden + static_cast<std::int64_t>(r) * kStride + k;
            const V h = Vector::load(at + static_cast<std::int64_t>(p) * kWidth);
            for (std::size_t j = 0; j < kW; ++j) sum[r][j] = Vector::multiply_add(w[j], h, sum[r][j]);
          }
        }
      } else {
        for (std::size_t j = 0; j < kW; ++j) {
          V w[kParts];
          if (k * kSize % kLine == 0) prefetch(weight[j] + k * kSize, ahead);
          Vector::template widen<kDType>(weight[j] + k * kSize, w);
          for (std::size_t p = 0; p < kParts; ++p) {
            for (std::size_t r = 0; r < kH; ++r) {
              const Element* at = hidden + static_cast<std::int64_t>(r) * kStride + k;
              sum[r][j] =
                  Vector::multiply_add(w[p], Vector::load(at + static_cast<std::int64_t>(p) * kWidth), sum[r][j]);
            }
          }
        }
      }
    }
    add_all(sum, sums);
  }

  template <DType kDType, class See>
  static void sums_few(const Element* block, std::int64_t rows, const WeightTile& tile, Element* sums, Element* scratch,
                       See& see) {
    if constexpr (requires { Vector::kRowsInTurn; }) {
      if (rows <= Vector::kRowsInTurn) return sums_in_turn<kDType>(block, rows, tile, sums, scratch, see);
    }
    // With one or two hidden rows enough accumulators to hide the latency of one another.
    if (rows <= 2) return sums_narrow<kDType, 4, 2>(block, rows, tile, sums, scratch, see);
    constexpr std::size_t kW = Vector::kWeightRows;
    sums_narrow<kDType, kW, 4 * Vector::kHiddenRows / kW>(block, rows, tile, sums, scratch, see);
  }

  // Up to Vector::kRowsInTurn hidden rows: kInTurn weight rows one after the other, chunk by chunk, which memory
  // follows better than rows side by side; what comes next is fetched into L1, and what comes after all of them into
  // L2.
  template <DType kDType, class See>
  static void sums_in_turn(const Element* block, std::int64_t rows, const WeightTile& tile, Element* sums,
                           Element* scratch, See& see) {
    constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
    const std::int64_t size = tile.weight->cols;
    const std::int64_t stride = tile.weight->row_stride * kSize;
    for (std::int64_t j = 0; j < tile.count; j += kInTurn) {
      const char* weight[kInTurn];
      for (std::int64_t i = 0; i < kInTurn; ++i) {
        const std::int64_t row = tile.first + (j + i < tile.count ? j + i : tile.count - 1);
        weight[i] = static_cast<const char*>(exact::row_data(*tile.weight, row));
      }
      const Element* hidden = block;
      for (std::int64_t k = 0; k < size; k += kLength, hidden += rows * kStride) {
        const std::int64_t count = count_at(k, size);
        if (count % kGroup != 0) fill_groups<kDType, kInTurn>(weight, count, reinterpret_cast<char*>(scratch));
        const std::int64_t padded = (count + kGroup - 1) / kGroup * kGroup;
        const std::int64_t back = k + kLength < size ? kLength * kSize - (kInTurn - 1) * stride : stride - k * kSize;
        in_turn<kDType, Vector::kRowsInTurn>(rows, weight, hidden, padded, sums + j, stride, back);
        for (std::int64_t i = 0; i < kInTurn; ++i) {
          if (j + i < tile.count) see.template operator()<kDType>(j + i, weight[i], count);
          weight[i] += count * kSize;
        }
      }
    }
  }

  template <DType kDType, std::size_t kH, class... Rest>
  static void in_turn(std::int64_t rows, Rest... rest) {
    if constexpr (kH > 1) {
      if (rows < static_cast<std::int64_t>(kH)) return in_turn<kDType, kH - 1>(rows, rest...);
    }
    multiply_in_turn<kDType, kH>(rest...);
  }

  // One chunk of whole groups. `stride` is from one weight row to the next, `back` from the last to what comes next.
  template <DType kDType, std::size_t kH>
  static void multiply_in_turn(const char* const* weight, const Element* hidden, std::int64_t count, Element* sums,
                               std::int64_t stride, std::int64_t back) {
    constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
    V sum[kH][kInTurn];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < kInTurn; ++j) {
      const std::int64_t near = j + 1 < kInTurn ? stride : back;
      for (std::size_t r = 0; r < kH; ++r) sum[r][j] = Vector::zero();
      const auto group = [&](std::int64_t k) {
        V w[kParts];
        Vector::template widen<kDType>(weight[j] + k * kSize, w);
#pragma GCC unroll 4
        for (std::size_t p = 0; p < kParts; ++p) {
          for (std::size_t r = 0; r < kH; ++r) {
            const Element* at = hidden + static_cast<std::int64_t>(r) * kStride + k;
            sum[r][j] = Vector::multiply_add(w[p], Vector::load(at + static_cast<std::int64_t>(p) * kWidth), sum[r][j]);
          }
        }
      };
      constexpr std::int64_t kLineGroups = kGroup * kSize < kLine ? kLine / (kGroup * kSize) : 1;
      std::int64_t k = 0;
      for (; k + kLineGroups * kGroup <= count; k += kLineGroups * kGroup) {
        prefetch(weight[j] + k * kSize, near);
        prefetch_far(weight[j] + k * kSize, kInTurn * stride);
#pragma GCC unroll 4
        for (std::int64_t g = 0; g < kLineGroups; ++g) group(k + g * kGroup);
      }
      for (; k < count; k += kGroup) group(k);
    }
    add_all(sum, sums);
  }

  // kPanel weight rows in turn, chunk by chunk, so that a chunk of hidden rows is in L1 for all of them; kW of them
  // against at most kH hidden rows at a time.
  template <DType kDType, std::size_t kW, std::size_t kH, class See>
  static void sums_narrow(const Element* block, std::int64_t rows, const WeightTile& tile, Element* sums,
                          Element* scratch, See& see) {
    const std::int64_t size = tile.weight->cols;
    const std::int64_t passes = (rows + static_cast<std::int64_t>(kH) - 1) / static_cast<std::int64_t>(kH);
    const std::int64_t most = (rows + passes - 1) / passes;
    for (std::int64_t j = 0; j < tile.count; j += kPanel) {
      const char* weight[kPanel];
      for (std::int64_t i = 0; i < kPanel; ++i) {
        const std::int64_t row = tile.first + (j + i < tile.count ? j + i : tile.count - 1);
        weight[i] = static_cast<const char*>(exact::row_data(*tile.weight, row));
      }
      const Element* hidden = block;
      for (std::int64_t k = 0; k < size; k += kLength, hidden += rows * kStride) {
        const std::int64_t count = count_at(k, size);
        if (count % kGroup != 0) fill_groups<kDType, kPanel>(weight, count, reinterpret_cast<char*>(scratch));
        const std::int64_t padded = (count + kGroup - 1) / kGroup * kGroup;
        // What is read next: the rows' next chunk, or the next rows' first.
        const std::int64_t ahead = (k + kLength < size ? kLength : kPanel * tile.weight->row_stride - k) *
                                   static_cast<std::int64_t>(dtype_size(kDType));
        for (std::int64_t r = 0; r < rows; r += most) {
          const std::int64_t these = rows - r < most ? rows - r : most;
          for (std::int64_t i = 0; i < kPanel; i += static_cast<std::int64_t>(kW)) {
            multiply_chunk<kDType, kW, kH>(weight + i, hidden + r * kStride, these, padded, sums + r * kTile + j + i,
                                           ahead);
          }
        }
        for (std::int64_t i = 0; i < kPanel; ++i) {
          if (j + i < tile.count) see.template operator()<kDType>(j + i, weight[i], count);
          weight[i] += count * static_cast<std::int64_t>(dtype_size(kDType));
        }
      }
    }
  }

  // Moves the last chunk of the rows to `buffer`, where zeros follow to the end of the group.
  template <DType kDType, std::size_t kRows>
  static void fill_groups(const char* (&weight)[kRows], std::int64_t count, char* buffer) {
    constexpr auto kSize = static_cast<std::int64_t>(dtype_size(kDType));
    for (const char*& row : weight) {
      std::memcpy(buffer, row, static_cast<std::size_t>(count * kSize));
      std::memset(buffer + count * kSize, 0, static_cast<std::size_t>((kGroup - count % kGroup) * kSize));
      row = buffer;
      buffer += kStride * kSize;
    }
  }

  // One chunk of kW weight rows and `rows` hidden rows, at most kH.
  template <DType kDType, std::size_t kW, std::size_t kH>
  static void multiply_chunk(const char* const* weight, const Element* hidden, std::int64_t rows, std::int64_t count,
                             Element* sums, std::int64_t ahead) {
    if constexpr (kH > 1) {
      if (rows < static_cast<std::int64_t>(kH)) {
        return multiply_chunk<kDType, kW, kH - 1>(weight, hidden, rows, count, sums, ahead);
      }
    }
    multiply_narrow<kDType, kW, kH>(weight, hidden, count, sums, ahead);
  }
};

}  // namespace
}  // namespace isologit::detail::kernels
