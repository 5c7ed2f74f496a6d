// Reading ahead. Kernels read rows a part at a time, too short for the processor's own prefetcher to get ahead. With
// this one row took 35 ms instead of 52 in f64 (avx512, avx2), 27 instead of 39 in f32 (V=151936, H=1024, a thread of a
// Xeon with AMX). 8 KB and 16 KB ahead do the same, 32 KB less. Where rows are read a part at a time, several in turn,
// what is so many bytes ahead may be a row that is read already: there it must be told what is next
// (kernels/panel.hpp).
//
// Very few rows (Vector::kRowsInTurn) meet weight rows one after the other; the next row's part is fetched into L1,
// that of the row four on into L2. One row, before and after, V=151936, ms of a thread of that Xeon: H=1024 avx512 33.9
// and 28.5, avx512_fast 27.6 and 24.6, avx2_fast 29.1 and 25.2; H=4096 27.6 and 25.6, 25.7 and 22.0, 26.0 and 24.3.
// Memory alone, a word of each line, takes 21.5. By turns of two or eight rows, without one of the two fetches, or with
// both twice as far ahead it was 1.02 to 1.3 times as long; four and six rows in f64 gain nothing, avx2 in f64 loses.
#pragma once

#include <algorithm>
#include <cstdint>

#include "exact/element.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::kernels {
namespace {

constexpr std::int64_t kLine = 64;     // bytes
constexpr std::int64_t kAhead = 8192;  // bytes

// The line so many bytes after `from`, which may lie past the matrix: it is not read then.
inline const void* line_after(const char* from, std::int64_t bytes) {
  return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(from) + static_cast<std::uintptr_t>(bytes));
}
inline void prefetch(const char* from, std::int64_t bytes = kAhead) { __builtin_prefetch(line_after(from, bytes)); }
// Into L2, where it waits for its turn.
inline void prefetch_far(const char* from, std::int64_t bytes) { __builtin_prefetch(line_after(from, bytes), 0, 2); }

// The same bytes of some rows, which are needed next: a line at a time.
class NextRows {
 public:
  NextRows(const char* first, std::int64_t stride, std::int64_t rows, std::int64_t bytes)
      : at_(reinterpret_cast<std::uintptr_t>(first)), stride_(stride), bytes_(bytes), left_(rows) {}

  void fetch(std::int64_t lines) {
    for (; lines > 0 && left_ > 0; --lines) {
      __builtin_prefetch(reinterpret_cast<const char*>(at_ + static_cast<std::uintptr_t>(next_)));
      next_ += kLine;
      if (next_ < bytes_) continue;
      next_ = 0;
      at_ += static_cast<std::uintptr_t>(stride_);
      --left_;
    }
  }

 private:
  std::uintptr_t at_;  // may lie past the matrix: it is not read
  std::int64_t stride_;
  std::int64_t bytes_;
  std::int64_t left_;
  std::int64_t next_ = 0;
};

// Memory that is needed after some work, fetched into L2 little by little while it is done and memory would be idle.
class Ahead {
 public:
  Ahead(std::uintptr_t from, std::int64_t bytes, std::int64_t work)
      : from_(from), bytes_(bytes), bytes_per_work_(static_cast<double>(bytes) / static_cast<double>(work)) {}

  // So much more of the work begins.
  void fetch(std::int64_t work) {
    done_ += work;
    const std::int64_t end = std::min(bytes_, static_cast<std::int64_t>(static_cast<double>(done_) * bytes_per_work_));
    for (; next_ < end; next_ += kLine) {
      __builtin_prefetch(reinterpret_cast<const char*>(from_ + static_cast<std::uintptr_t>(next_)), 0, 2);
    }
  }

 private:
  std::uintptr_t from_;  // may lie past the matrix: it is not read
  std::int64_t bytes_;
  double bytes_per_work_;  // as an integer tiles of 256 rows took a tenth longer (GCC 12)
  std::int64_t done_ = 0;
  std::int64_t next_ = 0;
};

// What lies behind a tile's weight rows, where the next tile's are as a rule; no more than eight lines a piece of work.
inline Ahead behind(const WeightTile& tile, std::int64_t work) {
  const std::int64_t bytes =
      tile.count * tile.weight->row_stride * static_cast<std::int64_t>(dtype_size(tile.weight->dtype));
  const auto first = reinterpret_cast<std::uintptr_t>(exact::row_data(*tile.weight, tile.first));
  return {first + static_cast<std::uintptr_t>(bytes), bytes, std::max({work, bytes / (8 * kLine), std::int64_t{1}})};
}

}  // namespace
}  // namespace isologit::detail::kernels
