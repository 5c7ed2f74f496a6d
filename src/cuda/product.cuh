// What the kernels of products share: what they are given, and the accumulation of one block of the depth.
#pragma once

#include "cuda/block.cuh"
#include "cuda/certificate.cuh"

namespace isologit::detail::cuda {

inline constexpr int kStep = 32;        // of the depth, in one accumulation
inline constexpr int kDepthGroup = 64;  // the depth of prepared hidden rows is a multiple
inline constexpr int kRowGroup = 64;    // and so is their number

struct DigitFacts;
// Rows as whole numbers (digits.cuh).
struct DigitRows {
  std::uint8_t* digits;
  DigitFacts* facts;
};

struct Product {
  const void* weight;
  std::int64_t weight_stride;  // in elements
  const void* bias;            // or null
  int bias_type;
  int rows, vocab, size;
  // Prepared hidden rows (prepare.cuh): the high words of h 2^kHiddenBias, [rows up to kRowGroup][depth]; the low words
  // lie `plane` words further. Packed: elements of 16 bits as they were, two a word.
  const std::uint32_t* words;
  int depth;
  int hidden_type;
  bool packed;
  std::int64_t plane;
  DigitRows hidden_digits;  // or null
  bool leading;             // the leading products of digits where they are enough (digit_products.cuh)
  bool wgmma;               // by wgmma: digits (digit_wgmma.cuh), which lie by pieces; and fast products
  bool repair;              // only tiles whose logits are open (Staged)
  bool fast;                // words hold hidden elements themselves, two each (fast.cuh), and there are no facts
  const RowFacts* facts;
  void* logits;
  int logits_type;
  std::int64_t logits_stride;

  ISOLOGIT_DEVICE float bias_of(int v) const { return bias == nullptr ? 0.0F : element_value(bias, bias_type, v); }
  ISOLOGIT_DEVICE void store(int row, int v, float logit) const {
    store_result(logits, logits_type, row * logits_stride + v, logit);
  }
  ISOLOGIT_DEVICE int row_or_last(int v) const { return v < vocab ? v : vocab - 1; }
};

// Four elements of a hidden row, scaled.
struct HiddenFour {
  double value[4];
};
// Of high words, and of low ones where the elements have more than 20 bits after the point.
template <bool LOW>
ISOLOGIT_DEVICE HiddenFour from_words(const Sixteen& high, const Sixteen& low) {
  HiddenFour four;
  ISOLOGIT_UNROLL
  for (int i = 0; i < 4; ++i) four.value[i] = from_words(high.word[i], LOW ? low.word[i] : 0);
  return four;
}

// The accumulators of a lane: MT tiles of 16 weight rows by NT tiles of 8 hidden rows (block.cuh says which), and what
// it has gathered of the weight rows g and g + 8 of each.
template <int MT, int NT>
struct Sums {
  double c[MT][NT][4];
  Gathered gathered[MT][2];
};

template <int MT, int NT>
ISOLOGIT_DEVICE void clear(Sums<MT, NT>& sums) {
  ISOLOGIT_UNROLL
  for (int m = 0; m < MT; ++m) {
    sums.gathered[m][0] = sums.gathered[m][1] = gathered_nothing();
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 4; ++i) sums.c[m][n][i] = 0.0;
    }
  }
}

// Chunks of the weight that a lane holds: eight elements of rows g and g + 8 of MT tiles.
template <class E, int MT>
struct Rows {
  Chunk<E> row[MT][2];
};

// One step of a warp: 32 of the depth. Within it lane (g, t) holds elements 8t to 8t + 7 of its rows; four of them,
// 8t + 4 half + i, are place t + 4i of one mma: the order within the depth is free as long as both sides have the same.
// weight_of(lane) is Rows<E, MT>&, hidden_of(lane, n, half) the same elements of hidden row 8n + g, scaled.
template <class E, int MT, int NT, class Block, class SumsOf, class WeightOf, class HiddenOf>
ISOLOGIT_DEVICE void accumulate_step(Block& block, SumsOf sums_of, WeightOf weight_of, HiddenOf hidden_of) {
  struct A {
    double m[MT][8];
  };
  block.each_lane([&](int lane) {
    const Rows<E, MT>& rows = weight_of(lane);
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        ISOLOGIT_UNROLL
        for (int j = 0; j < 8; ++j) gather(sums_of(lane).gathered[m][s], rows.row[m][s].value(j));
      }
    }
  });
  ISOLOGIT_UNROLL
  for (int half = 0; half < 2; ++half) {
    typename Block::template PerLane<A> a;
    block.each_lane([&](int lane) {
      const Rows<E, MT>& rows = weight_of(lane);
      ISOLOGIT_UNROLL
      for (int m = 0; m < MT; ++m) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          a(lane).m[m][2 * i] = rows.row[m][0].widen(4 * half + i);
          a(lane).m[m][2 * i + 1] = rows.row[m][1].widen(4 * half + i);
        }
      }
    });
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      typename Block::template PerLane<HiddenFour> b;
      block.each_lane([&](int lane) { b(lane) = hidden_of(lane, n, half); });
      ISOLOGIT_UNROLL
      for (int m = 0; m < MT; ++m) {
        block.mma([&](int lane) -> double* { return sums_of(lane).c[m][n]; },
                  [&](int lane) -> const double* { return a(lane).m[m]; },
                  [&](int lane) -> const double* { return b(lane).value; });
      }
    }
  }
}

}  // namespace isologit::detail::cuda
