// Rows of bf16 as whole numbers of three digits, which tensor cores multiply and add without rounding.
//
// Of each row a window is chosen: exponent fields up to `window`, and the bits of a number of 24 bits below the
// greatest such element: a unit is 2^(window - kUnit). An element is a whole number of units and, of the few that do
// not fit, a rest: the list of elements outside, whose products are added apart. Nothing is lost, so that a logit is
// exact. The window is the one that leaves the fewest elements outside, of 4096 normal ones a third of one; where
// leading products may do (digit_products.cuh), the lowest that leaves no more than `spare`, so that lowest digits are
// few. Digits are from -128 to 127: d0 + 2^8 d1 + 2^16 d2.
#pragma once

#include "cuda/product.cuh"

namespace isologit::detail::cuda {

inline constexpr int kDigits = 3;
inline constexpr int kUnit = 149;
inline constexpr int kMostOutside = 32;        // of a row; one that has more is wild
inline constexpr int kSpare = 8;               // of a row of 2048 elements or more, if that makes lowest digits fewer
inline constexpr int kMostDigitDepth = 16384;  // sums of products of digits fit 32 bits, those of whole numbers 61

struct Outside {
  int k;
  float rest;
};
// Sums over a row's whole numbers.
struct WholeFacts {
  std::int64_t sum;
  std::int64_t low_sum;   // of their lowest digits
  std::int32_t low_size;  // of the magnitudes of these
  std::int32_t most;      // the greatest magnitude of the lower two, |d0 + 2^8 d1|
};
struct DigitFacts {
  int window;
  int outside;
  int special;  // whether there is an infinity or NaN
  int leading;  // whether the leading products leave few results open
  WholeFacts whole;
  Outside list[kMostOutside];

  ISOLOGIT_DEVICE bool is_usable() const { return special == 0 && outside <= kMostOutside; }
};

// A whole number plus this has its digits plus 128 for its lower two bytes.
inline constexpr int kBalance = 0x8080;
ISOLOGIT_DEVICE int lower_two(int whole) { return ((whole + kBalance) & 0xFFFF) - kBalance; }
ISOLOGIT_DEVICE int lowest_digit(int whole) { return ((whole + kBalance) & 0xFF) - 128; }

// An element in a window: units, and what is left.
struct Divided {
  int whole;
  double rest;
};
ISOLOGIT_DEVICE int field_of(std::uint32_t magnitude) {
  const int field = static_cast<int>(magnitude >> 7);
  return field > 0 ? field : 1;
}
ISOLOGIT_DEVICE Divided divided_by(int window, std::uint32_t bits) {
  const auto value = static_cast<double>(Bf16::value(bits));
  if (field_of(bits & 0x7FFFU) > window) return {0, value};
  const double units = value * power_of_two(kUnit - window);  // below 2^23
  const double whole = rint(units);
  if (whole >= (1 << 23) - kBalance) return {0, value};  // the greatest there is: its digits would be past 127
  return {static_cast<int>(whole), (units - whole) * power_of_two(window - kUnit)};
}

// Where byte k of 32 lies for wgmma, which reads pieces of 16: first the fours that begin at multiples of eight, then
// the others, as a lane holds those of the weight. Four from a multiple of four on stay together.
ISOLOGIT_DEVICE int place_of(int k, bool by_halves) { return by_halves ? (k & 4) << 2 | (k & 24) >> 1 | (k & 3) : k; }

// Where the byte of an element lies: what a block needs of 64 rows and 64 of the depth lies together, there by digits,
// the lowest first, and by steps of the depth. In a step by rows; or by halves (place_of), as wgmma reads them
// (digit_wgmma.cuh), the first 16 bytes of all rows and then the other 16.
ISOLOGIT_DEVICE std::int64_t digit_place(int row, int k, int digit, int depth, bool by_pieces) {
  const std::int64_t part = static_cast<std::int64_t>(row / kRowGroup) * (depth / kDepthGroup) + k / kDepthGroup;
  const std::int64_t step = ((part * kDigits + digit) * 2 + k / kStep % 2) * kRowGroup * kStep;
  const int place = place_of(k % kStep, by_pieces);
  const int own = row % kRowGroup;
  if (!by_pieces) return step + own * kStep + place;
  return step + (place / 16 * kRowGroup + own) * 16 + place % 16;
}

struct DigitPreparation {
  const void* hidden;
  std::int64_t stride;  // in elements
  int rows, size, depth;
  int spare;
  bool by_pieces;
  const RowFacts* rows_facts;  // [rows]
  std::uint8_t* digits;        // in the order of digit_place
  DigitFacts* facts;           // [rows]
};

template <class BlockType>
struct PrepareDigits {
  using Block = BlockType;
  using Args = DigitPreparation;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kFields = 256;
  static constexpr int kReach = kUnit - 134 + 1;  // fields of a window: the lowest bit of a field is 2^(field - 134)

  struct Shared {
    std::uint32_t histogram[kFields];
    std::uint32_t outside, special;
    int window;
    WholeFacts whole[Block::kWarps];
  };
  struct Eight {
    std::uint32_t word[2];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const DigitPreparation& p, int row, int) {
    const int size = row < p.rows ? p.size : 0;
    const auto* elements = static_cast<const std::uint16_t*>(p.hidden) + (row < p.rows ? row : 0) * p.stride;
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int i = 32 * warp + lane; i < kFields; i += Block::kThreads) shared.histogram[i] = 0;
        if (warp == 0 && lane == 0) shared.outside = shared.special = 0;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        for (int k = 32 * warp + lane; k < size; k += Block::kThreads) {
          const std::uint32_t magnitude = elements[k] & 0x7FFFU;
          if (magnitude != 0) block.count(shared.histogram[field_of(magnitude)]);
        }
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      if (warp == 0) choose_window(block, shared, p.spare);
    });
    block.sync();
    block.each_warp([&](int warp) {
      typename Block::template PerLane<WholeFacts> whole;
      block.each_lane([&](int lane) {
        whole(lane) = {};
        for (int k = 8 * (32 * warp + lane); k < p.depth; k += 8 * Block::kThreads) {
          fill(block, shared, p, whole(lane), elements, row, k, size);
        }
      });
      block.reduce([&](int lane) -> WholeFacts& { return whole(lane); }, 1, 32,
                   [](WholeFacts& to, const WholeFacts& from) { merge_whole(to, from); });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.whole[warp] = whole(lane);
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp != 0 || lane != 0 || row >= p.rows) return;
        DigitFacts& facts = p.facts[row];
        facts.window = shared.window;
        facts.outside = static_cast<int>(shared.outside);
        facts.special = static_cast<int>(shared.special);
        facts.whole = shared.whole[0];
        for (int w = 1; w < Block::kWarps; ++w) merge_whole(facts.whole, shared.whole[w]);
        facts.leading = are_leading_enough(facts, p.rows_facts[row].norm, size) ? 1 : 0;
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static void merge_whole(WholeFacts& to, const WholeFacts& from) {
    to.sum += from.sum;
    to.low_sum += from.low_sum;
    to.low_size += from.low_size;
    to.most = from.most > to.most ? from.most : to.most;
  }

  // Whether the leading products (digit_products.cuh) leave so few results open that settling them costs less than the
  // other products do: one in 128, if the weight is of 2^20 units and 2 for each lowest digit and sums are as great as
  // those of random numbers. Normal rows leave one in 300. A guess, on which no bit rests.
  ISOLOGIT_DEVICE static bool are_leading_enough(const DigitFacts& facts, double norm, int size) {
    const double in_units = norm * power_of_two(kUnit - facts.window);
    const bool few = facts.whole.most == 0 || 3072.0 * (2.0 * size + facts.whole.low_size) <= in_units;
    return facts.is_usable() && few;
  }

  // Lane s looks at the window s below the greatest field.
  ISOLOGIT_DEVICE static void choose_window(Block& block, Shared& shared, int spare) {
    struct Word {
      int value, all;
    };
    typename Block::template PerLane<Word> found;
    const auto merge = [](Word& to, const Word& from) {
      to.value = to.value > from.value ? to.value : from.value;
      to.all += from.all;
    };
    block.each_lane([&](int lane) {
      found(lane) = {1, 0};
      for (int f = lane; f < kFields - 1; f += 32) {
        if (shared.histogram[f] != 0) found(lane).value = f > found(lane).value ? f : found(lane).value;
        found(lane).all += static_cast<int>(shared.histogram[f]);
      }
    });
    block.reduce([&](int lane) -> Word& { return found(lane); }, 1, 32, merge);
    typename Block::template PerLane<int> top;
    block.each_lane([&](int lane) {
      top(lane) = found(lane).value;
      const int wanted = found(lane).all > spare ? found(lane).all - spare : 0;
      int inside = 0;
      for (int i = 0; i < kReach; ++i) {
        const int field = top(lane) - lane - i;
        if (field >= 1) inside += static_cast<int>(shared.histogram[field]);
      }
      // Of windows that are as good the greatest, or the lowest of those that are good enough.
      const int place = spare == 0 ? 31 - lane : lane;
      const int good = spare == 0 || inside < wanted ? inside : wanted;
      found(lane).value = top(lane) - lane >= 1 ? 32 * good + place : -1;
    });
    block.reduce([&](int lane) -> Word& { return found(lane); }, 1, 32, merge);
    block.each_lane([&](int lane) {
      if (lane != 0) return;
      const int place = found(lane).value % 32;
      shared.window = top(lane) - (spare == 0 ? 31 - place : place);
      shared.special = shared.histogram[kFields - 1];
    });
  }

  // Eight elements from k on.
  ISOLOGIT_DEVICE static void fill(Block& block, Shared& shared, const DigitPreparation& p, WholeFacts& facts,
                                   const std::uint16_t* elements, int row, int k, int size) {
    Eight eight[kDigits] = {};
    ISOLOGIT_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (k + j >= size) continue;
      const Divided divided = divided_by(shared.window, elements[k + j]);
      if (!(divided.rest == 0.0)) {
        const std::uint32_t at = block.take(shared.outside);
        if (at < kMostOutside) p.facts[row].list[at] = {k + j, static_cast<float>(divided.rest)};
      }
      const int low = lowest_digit(divided.whole), lower = lower_two(divided.whole);
      merge_whole(facts, {divided.whole, low, low < 0 ? -low : low, lower < 0 ? -lower : lower});
      const int digits[kDigits] = {low, (lower - low) >> 8, (divided.whole - lower) >> 16};
      ISOLOGIT_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        eight[d].word[j / 4] |= (static_cast<std::uint32_t>(digits[d]) & 0xFFU) << 8 * (j % 4);
      }
    }
    ISOLOGIT_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<std::uint32_t*>(p.digits + digit_place(row, k + 4 * i, d, p.depth, p.by_pieces)) =
            eight[d].word[i];
      }
    }
  }
};

}  // namespace isologit::detail::cuda
