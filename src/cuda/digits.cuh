// Rows of bf16 as whole numbers of three digits, which tensor cores multiply and add without rounding.
//
// Of each row a window is chosen: exponent fields up to `window`, and the bits of a number of 24 bits, two's
// complement, below the greatest such element: a unit is 2^(window - kUnit). An element is a whole number of units and,
// of the few that do not fit, a rest: the list of elements outside, whose products are added apart. Nothing is lost, so
// that a logit is exact. The window is the one that leaves the fewest elements outside, of 4096 normal ones a third of
// one.
#pragma once

#include "cuda/product.cuh"

namespace isologit::detail::cuda {

inline constexpr int kDigits = 3;
inline constexpr int kUnit = 149;
inline constexpr int kMostOutside = 32;        // of a row; one that has more is wild
inline constexpr int kMostDigitDepth = 16384;  // sums of products of digits fit 32 bits, those of whole numbers 61

struct Outside {
  int k;
  float rest;
};
struct DigitFacts {
  int window;
  int outside;
  int special;  // whether there is an infinity or NaN
  int unused;
  std::int64_t sum;  // of the whole numbers
  Outside list[kMostOutside];

  ISOLOGIT_DEVICE bool is_usable() const { return special == 0 && outside <= kMostOutside; }
};

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
  return {static_cast<int>(whole), (units - whole) * power_of_two(window - kUnit)};
}

// Where the byte of an element lies: what a block needs of 64 rows and 64 of the depth lies together, there by digits,
// the lowest first, and by halves of the depth.
ISOLOGIT_DEVICE std::int64_t digit_place(int row, int k, int digit, int depth) {
  const std::int64_t part = static_cast<std::int64_t>(row / kRowGroup) * (depth / kDepthGroup) + k / kDepthGroup;
  return (((part * kDigits + digit) * 2 + k / kStep % 2) * kRowGroup + row % kRowGroup) * kStep + k % kStep;
}

struct DigitPreparation {
  const void* hidden;
  std::int64_t stride;  // in elements
  int rows, size, depth;
  std::uint8_t* digits;  // in the order of digit_place
  DigitFacts* facts;     // [rows]
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
    std::int64_t sum[Block::kWarps];
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
      if (warp == 0) choose_window(block, shared);
    });
    block.sync();
    block.each_warp([&](int warp) {
      typename Block::template PerLane<std::int64_t> sum;
      block.each_lane([&](int lane) {
        sum(lane) = 0;
        for (int k = 8 * (32 * warp + lane); k < p.depth; k += 8 * Block::kThreads) {
          sum(lane) += fill(block, shared, p, elements, row, k, size);
        }
      });
      block.reduce([&](int lane) -> std::int64_t& { return sum(lane); }, 1, 32,
                   [](std::int64_t& to, const std::int64_t& from) { to += from; });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.sum[warp] = sum(lane);
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
        facts.sum = 0;
        for (int w = 0; w < Block::kWarps; ++w) facts.sum += shared.sum[w];
      });
    });
  }

 private:
  // Lane s looks at the window s below the greatest field.
  ISOLOGIT_DEVICE static void choose_window(Block& block, Shared& shared) {
    struct Word {
      int value;
    };
    typename Block::template PerLane<Word> found;
    const auto most = [](Word& to, const Word& from) { to.value = to.value > from.value ? to.value : from.value; };
    block.each_lane([&](int lane) {
      found(lane).value = 1;
      for (int f = lane; f < kFields - 1; f += 32) {
        if (shared.histogram[f] != 0) found(lane).value = f > found(lane).value ? f : found(lane).value;
      }
    });
    block.reduce([&](int lane) -> Word& { return found(lane); }, 1, 32, most);
    typename Block::template PerLane<int> top;
    block.each_lane([&](int lane) {
      top(lane) = found(lane).value;
      int inside = 0;
      for (int i = 0; i < kReach; ++i) {
        const int field = top(lane) - lane - i;
        if (field >= 1) inside += static_cast<int>(shared.histogram[field]);
      }
      found(lane).value = top(lane) - lane >= 1 ? 32 * inside + 31 - lane : -1;
    });
    block.reduce([&](int lane) -> Word& { return found(lane); }, 1, 32, most);
    block.each_lane([&](int lane) {
      if (lane != 0) return;
      shared.window = top(lane) - (31 - found(lane).value % 32);
      shared.special = shared.histogram[kFields - 1];
    });
  }

  // Eight elements from k on; the sum of their whole numbers.
  ISOLOGIT_DEVICE static std::int64_t fill(Block& block, Shared& shared, const DigitPreparation& p,
                                           const std::uint16_t* elements, int row, int k, int size) {
    Eight eight[kDigits] = {};
    std::int64_t sum = 0;
    ISOLOGIT_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (k + j >= size) continue;
      const Divided divided = divided_by(shared.window, elements[k + j]);
      if (!(divided.rest == 0.0)) {
        const std::uint32_t at = block.take(shared.outside);
        if (at < kMostOutside) p.facts[row].list[at] = {k + j, static_cast<float>(divided.rest)};
      }
      sum += divided.whole;
      ISOLOGIT_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        eight[d].word[j / 4] |= (static_cast<std::uint32_t>(divided.whole) >> 8 * d & 0xFFU) << 8 * (j % 4);
      }
    }
    ISOLOGIT_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      *reinterpret_cast<Eight*>(p.digits + digit_place(row, k, d, p.depth)) = eight[d];
    }
    return sum;
  }
};

}  // namespace isologit::detail::cuda
