// The lowest digits of a row whose elements are multiplied as words (avx512_vnni.cpp): lists of the few pairs of
// elements that have some; for files compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>

#include "kernels/digits.hpp"

namespace isologit::detail::kernels {
namespace vnni {
namespace {

constexpr std::int64_t kSide = 16;         // rows of a group, one a lane
constexpr std::int64_t kPair = 4 * kSide;  // bytes of two elements' words: [row][element]
constexpr std::int64_t kHalf = kStep / 4;  // pairs of half a step
constexpr std::int64_t kStepBytes = kStep / 2 * kPair;
constexpr std::int64_t kPieceSteps = 16;  // multiplied together
constexpr std::int64_t kMostSize = 32768;
constexpr std::int64_t kMostPieces = kMostSize / (kPieceSteps * kStep);
constexpr std::int64_t kLowShare = 12;

inline void store(void* to, __m512i value) { _mm512_storeu_si512(to, value); }

// The pairs of a row where a lowest digit is not 0, in ascending order, piece by piece.
class PackedRow {
 public:
  static std::int64_t bytes(std::int64_t size) { return kHeader + 2 * capacity(size) * 4; }

  PackedRow(char* at, std::int64_t size)
      : starts_(reinterpret_cast<std::int32_t*>(at)),
        places_(reinterpret_cast<std::int32_t*>(at + kHeader)),
        digits_(places_ + capacity(size)) {}

  static std::int64_t most(std::int64_t size) { return size / kLowShare + 4; }

  // Of piece `piece` the first, in the list.
  std::int32_t& start(std::int64_t piece) const { return starts_[piece]; }
  // A pair's distance, in bytes, from the beginning of its group's words, and its lowest digits as words.
  std::int32_t* places() const { return places_; }
  std::int32_t* digits() const { return digits_; }

 private:
  static constexpr std::int64_t kHeader = (4 * (kMostPieces + 1) + 63) / 64 * 64;
  // More, since sixteen are written at a time, twice a step.
  static std::int64_t capacity(std::int64_t size) { return (most(size) + 3 * kSide + 15) / 16 * 16; }

  std::int32_t* starts_;
  std::int32_t* places_;
  std::int32_t* digits_;
};

// Takes the lowest digits of a row, step by step, and fills its PackedRow.
class Packer {
 public:
  Packer(const PackedRow& row, std::int64_t size) : row_(row), most_(PackedRow::most(size)) {}

  // Whether the list is not too long: for these products to be the fastest, and for the sum of a piece, each place of
  // which adds less than 2^24.
  bool take(std::int64_t step, const __m512i (&lowest)[2]) {
    if (step == 0) count_ = pieces_ = 0;
    if (step % kPieceSteps == 0) row_.start(pieces_++) = static_cast<std::int32_t>(count_);
    const __mmask16 some[2] = {_mm512_test_epi32_mask(lowest[0], lowest[0]),
                               _mm512_test_epi32_mask(lowest[1], lowest[1])};
    const __m512i places = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(step * kStepBytes)), pairs_);
    const __m512i more = _mm512_add_epi32(places, _mm512_set1_epi32(static_cast<int>(kHalf * kPair)));
    // Known before anything is stored, which the next step would wait for.
    const std::int64_t first = count_;
    const std::int64_t second = first + std::popcount(static_cast<std::uint16_t>(some[0]));
    count_ = second + std::popcount(static_cast<std::uint16_t>(some[1]));
    store(row_.places() + first, _mm512_maskz_compress_epi32(some[0], places));
    store(row_.digits() + first, _mm512_maskz_compress_epi32(some[0], lowest[0]));
    store(row_.places() + second, _mm512_maskz_compress_epi32(some[1], more));
    store(row_.digits() + second, _mm512_maskz_compress_epi32(some[1], lowest[1]));
    return count_ <= most_ && count_ - row_.start(pieces_ - 1) < kMostOfPiece;
  }

  // A row with a NaN ends early.
  void finish(std::int64_t pieces) {
    while (pieces_ <= pieces) row_.start(pieces_++) = static_cast<std::int32_t>(count_);
  }

 private:
  static constexpr std::int64_t kMostOfPiece = 128;

  PackedRow row_;
  std::int64_t most_;
  std::int64_t count_ = 0;
  std::int64_t pieces_ = 0;
  __m512i pairs_ = _mm512_setr_epi32(0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960);
};

}  // namespace
}  // namespace vnni
}  // namespace isologit::detail::kernels
