// What kernels of products of digits share (digit_products.cuh has the arithmetic, and by mma.sync; digit_wgmma.cuh by
// wgmma): the stages that pass through shared memory, the digits of the weight, and logits of the sums.
#pragma once

#include "cuda/digits.cuh"
#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

inline constexpr int kWeightUnit = 148;

template <class BlockType, int NT, bool LEADING, bool BY_PIECES, int STAGES>
struct DigitTile {
  using Block = BlockType;
  using Args = Product;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int kWeightRows = 16 * kWarps;
  static constexpr int kHiddenRows = 8 * NT;
  static constexpr int kBlocksPerProcessor = NT == 8 && !LEADING ? 2 : 3;
  static constexpr int kStages = STAGES;
  static constexpr int kDepth = kDepthGroup;                // of a stage
  static constexpr int kLeast = LEADING ? kDigits - 1 : 0;  // the least order
  static constexpr int kOrders = 2 * kDigits - 1 - kLeast;
  static constexpr int kUnitOfWeight = LEADING ? kWeightUnit + 1 : kWeightUnit;
  static_assert(std::int64_t{kMostDigitDepth} * kDigits * 255 * 128 <= std::int64_t{1} << 31);
  static constexpr int kSamples = 8;  // chunks of a row that each of its four lanes looks at
  static constexpr int kMargin = 1;
  static constexpr int kMostNoted = 16;
  static constexpr int kAtOnce = 8;             // logits that a lane finishes together
  static constexpr float kMagic = 12582912.0F;  // 3 2^22
  static constexpr std::uint32_t kMagicTop = 0x4B000000U;

  struct Stage {
    Sixteen weight[kWeightRows][8];              // piece i of row r lies at i ^ 4 (r & 1): the lanes meet in no bank
    Sixteen hidden[kDigits][2][kHiddenRows][2];  // by steps, so that the lanes read bytes that lie together
  };
  struct Shared {
    union {
      Stage stage[kStages];
      struct {                                       // when the products are done
        std::int64_t sums[kWarps][kHiddenRows][16];  // of all orders
        Outside list[kWeightRows][kMostOutside];
      } after;
    };
    std::uint16_t noted[kWeightRows][4][kMostNoted];  // of a row and lane: which eighths of the row
    std::uint32_t outside[kWeightRows];
    std::uint32_t low[kWeightRows];  // the sum of a row's lowest digits
    int window[kWeightRows];
  };
  struct Lane {
    std::int32_t c[kOrders][NT][4];
    int window[2], noted[2];
    std::uint32_t low[2];
    float scale[2];
  };
  struct A {
    std::uint32_t digit[kDigits][4];
  };

  // The last tile begins earlier, so that all have as many rows.
  ISOLOGIT_DEVICE static int first_weight_row(const Product& p, int tile) {
    return (tile + 1) * kWeightRows <= p.vocab ? tile * kWeightRows : p.vocab - kWeightRows;
  }

  // Of the block's hidden rows: for all but a few.
  ISOLOGIT_DEVICE static bool are_leading_enough(Block& block, const Product& p, int row0) {
    int others = 0;
    block.each_warp([&](int) {
      others = 0;
      ISOLOGIT_UNROLL
      for (int i = 0; i < kHiddenRows; i += 32) {
        std::uint32_t which = block.ballot([&](int lane) {
          const int row = row0 + i + lane;
          return row < p.rows && p.hidden_digits.facts[row].leading == 0;
        });
        for (; which != 0; which &= which - 1) ++others;
      }
    });
    return others <= kHiddenRows / 16;
  }

  ISOLOGIT_DEVICE static const std::uint16_t* weight_row(const Product& p, int v) {
    return static_cast<const std::uint16_t*>(p.weight) + v * p.weight_stride;
  }

  // Begins the copy of a stage; a group is ended also where there is none, so that they can be counted.
  ISOLOGIT_DEVICE static void fetch(Block& block, Shared& shared, const Product& p, int v0, int row0, int stage,
                                    int stages) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        const int thread = 32 * warp + lane;
        if (stage < stages) {
          fetch_weight(block, shared.stage[stage % kStages], p, v0, stage * kDepth, thread);
          fetch_hidden(block, shared.stage[stage % kStages], p, row0, stage * kDepth, thread);
        }
        block.end_group();
      });
    });
  }

  // So that a thread copies the same piece of several rows.
  ISOLOGIT_DEVICE static void fetch_weight(Block& block, Stage& to, const Product& p, int v0, int k0, int thread) {
    constexpr int kRowsAtATime = Block::kThreads / 8;
    const int k = k0 + 8 * (thread % 8);
    const std::uint16_t* from = weight_row(p, v0 + thread / 8) + (k < p.size ? k : 0);
    ISOLOGIT_UNROLL
    for (int j = 0; j < kWeightRows / kRowsAtATime; ++j) {
      const int row = kRowsAtATime * j + thread / 8;
      block.copy_or_zero(&to.weight[row][thread % 8 ^ 4 * (row & 1)], from, k < p.size);
      from += kRowsAtATime * p.weight_stride;
    }
  }

  // Of the 64 rows that lie together the first or second part, or all; as they lie there (digit_place).
  ISOLOGIT_DEVICE static void fetch_hidden(Block& block, Stage& to, const Product& p, int row0, int k0, int thread) {
    constexpr int kPieces = 2 * kHiddenRows;  // of a digit and step
    const std::uint8_t* from = p.hidden_digits.digits + digit_place(row0, k0, 0, p.depth, BY_PIECES);
    from += BY_PIECES ? 16 * (thread / kHiddenRows * kRowGroup + thread % kHiddenRows) : 16 * thread;
    auto* pieces = reinterpret_cast<Sixteen*>(to.hidden);
    ISOLOGIT_UNROLL
    for (int part = 0; part < 2 * kDigits; ++part) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < kPieces; i += Block::kThreads) {
        if (kPieces % Block::kThreads != 0 && i + thread >= kPieces) continue;
        block.copy(pieces + part * kPieces + i + thread, from + part * kRowGroup * kStep + i * 16);
      }
    }
  }

  // The windows of the warp's rows, from chunks that are spread over them; a barrier must follow.
  template <class State>
  ISOLOGIT_DEVICE static void begin(Block& block, Shared& shared, State& state, const Product& p, int v0, int warp) {
    struct Most {
      int magnitude;
    };
    ISOLOGIT_UNROLL
    for (int s = 0; s < 2; ++s) {
      typename Block::template PerLane<Most> most;
      block.each_lane([&](int lane) {
        const std::uint16_t* row = weight_row(p, v0 + 16 * warp + 8 * s + (lane >> 2));
        const int chunks = p.size / 8;
        int magnitude = 0;
        ISOLOGIT_UNROLL
        for (int i = 0; i < kSamples; ++i) {
          const int chunk = (4 * i + (lane & 3)) * chunks / (4 * kSamples);
          const Chunk<Bf16> eight = load_chunk<Bf16, true>(row, 8 * chunk, p.size);
          ISOLOGIT_UNROLL
          for (int j = 0; j < 8; ++j) {
            const int own = static_cast<int>(eight.bits(j) & 0x7FFFU);
            magnitude = own > magnitude ? own : magnitude;
          }
        }
        most(lane).magnitude = magnitude;
      });
      block.reduce([&](int lane) -> Most& { return most(lane); }, 1, 4,
                   [](Most& to, const Most& from) {
                     to.magnitude = to.magnitude > from.magnitude ? to.magnitude : from.magnitude;
                   });
      block.each_lane([&](int lane) {
        const int guess = (most(lane).magnitude >> 7) + kMargin;
        const int window = guess < 21 ? 21 : guess > 254 ? 254 : guess;  // so that the scale is an f32 number
        state(warp, lane).window[s] = window;
        state(warp, lane).noted[s] = 0;
        state(warp, lane).low[s] = 0;
        state(warp, lane).scale[s] = static_cast<float>(power_of_two(kWeightUnit - window));
        const int row = 16 * warp + 8 * s + (lane >> 2);
        if ((lane & 3) == 0) {
          shared.window[row] = window;
          shared.outside[row] = 0;
        }
      });
    }
    block.each_lane([&](int lane) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int o = 0; o < kOrders; ++o) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < 4; ++i) state(warp, lane).c[o][n][i] = 0;
        }
      }
    });
  }

  // The digits of a lane's elements of one step: lane (g, t) holds elements 8t to 8t + 7 of rows g and g + 8, places 4t
  // to 4t + 3 and 16 + 4t to 16 + 4t + 3 of the mma: the order within the depth is free as long as both sides have the
  // same.
  ISOLOGIT_DEVICE static void divide(Shared& shared, A& a, const Stage& from, Lane& own, int stage, int step, int warp,
                                     int lane) {
    const int piece = 4 * step + (lane & 3);
    const int row = 16 * warp + (lane >> 2);
    const int part = lane & 3;
    std::uint32_t whole[2][8];
    bool outside[2];
    ISOLOGIT_UNROLL
    for (int s = 0; s < 2; ++s) {
      const Chunk<Bf16> chunk = {{from.weight[row + 8 * s][piece ^ 4 * (row & 1)]}};
      outside[s] = has_outside(chunk.part[0], own.window[s]);
      ISOLOGIT_UNROLL
      for (int j = 0; j < 8; ++j) whole[s][j] = bit_cast<std::uint32_t>(fused(chunk.value(j), own.scale[s], kMagic));
    }
    if (outside[0] || outside[1]) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        if (!outside[s]) continue;
        ISOLOGIT_UNROLL
        for (int j = 0; j < 8; ++j) {
          if (!is_within(whole[s][j])) whole[s][j] = kMagicTop | 1U << 22;
        }
        if (own.noted[s] < kMostNoted) {
          shared.noted[row + 8 * s][part][own.noted[s]] = static_cast<std::uint16_t>(8 * stage + piece);
        }
        ++own.noted[s];
      }
    }
    ISOLOGIT_UNROLL
    for (int s = 0; s < 2; ++s) {
      if (LEADING) {
        ISOLOGIT_UNROLL
        for (int j = 0; j < 8; ++j) whole[s][j] <<= 1;
      }
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t* w = whole[s] + 4 * half;
        const std::uint32_t low = bytes_of(w[0], w[1], 0x5140);  // lowest of both, then the middle ones
        const std::uint32_t high = bytes_of(w[2], w[3], 0x5140);
        a.digit[0][2 * half + s] = bytes_of(low, high, 0x5410);
        a.digit[1][2 * half + s] = bytes_of(low, high, 0x7632);
        a.digit[2][2 * half + s] = bytes_of(bytes_of(w[0], w[1], 0x0062), bytes_of(w[2], w[3], 0x0062), 0x5410);
        if (LEADING) own.low[s] = sum_of_bytes(a.digit[0][2 * half + s], own.low[s]);
      }
    }
  }

  ISOLOGIT_DEVICE static bool is_within(std::uint32_t whole) { return (whole & 0xFF800000U) == kMagicTop; }

  // Whether one may be more than a whole number: its field is above the window, or so far below that bits may be left.
  ISOLOGIT_DEVICE static bool has_outside(const Sixteen& at, int window) {
    std::uint32_t most = 0;
    std::uint32_t least = ~0U;  // of what is not zero, less 1
    ISOLOGIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t magnitudes = at.word[i] & 0x7FFF7FFFU;
      most = most_of_halves(most, magnitudes);
      least = least_of_halves_plus(magnitudes, ~0U, least);
    }
    const int low = (window - (kWeightUnit - 134)) * 128 - 1;  // the lowest bit of a field is 2^(field - 134)
    const int high = window * 128 + 127;
    return static_cast<int>(most >> 16) > high || static_cast<int>(most & 0xFFFFU) > high ||
           static_cast<int>(least >> 16) < low || static_cast<int>(least & 0xFFFFU) < low;
  }

  // What a lane noted, as the rows' lists.
  ISOLOGIT_DEVICE static void list_outside(Block& block, Shared& shared, const Lane& own, const Product& p, int v0,
                                           int row, int part) {
    ISOLOGIT_UNROLL
    for (int s = 0; s < 2; ++s, row += 8) {
      const std::uint16_t* elements = weight_row(p, v0 + row);
      ISOLOGIT_ROLLED
      for (int i = 0; i < own.noted[s]; ++i) {
        if (i >= kMostNoted) {  // too many: it counts as all of them
          for (int j = 0; j <= kMostOutside; ++j) block.take(shared.outside[row]);
          break;
        }
        const int k0 = 8 * shared.noted[row][part][i];
        ISOLOGIT_ROLLED
        for (int k = k0; k < k0 + 8 && k < p.size; ++k) {
          const float rest = rest_of(Bf16::value(elements[k]), own.scale[s], own.window[s]);
          if (rest == 0.0F) continue;
          const std::uint32_t at = block.take(shared.outside[row]);
          if (at < kMostOutside) shared.after.list[row][at] = {k, rest};
        }
      }
    }
  }

  // What of an element its whole number is not.
  ISOLOGIT_DEVICE static float rest_of(float w, float scale, int window) {
    const float f = fused(w, scale, kMagic);
    if (!is_within(bit_cast<std::uint32_t>(f))) return w;
    const float rest = fused(w, scale, kMagic - f);
    return static_cast<float>(static_cast<double>(rest) * power_of_two(window - kWeightUnit));
  }

  template <class State>
  ISOLOGIT_DEVICE static void finish(Block& block, Shared& shared, State& state, const Product& p, int warp, int v0,
                                     int row0) {
    struct Low {
      std::uint32_t sum[2];
    };
    typename Block::template PerLane<Low> low;
    if (LEADING) {
      block.each_lane([&](int lane) { low(lane) = {{state(warp, lane).low[0], state(warp, lane).low[1]}}; });
      block.reduce([&](int lane) -> Low& { return low(lane); }, 1, 4,
                   [](Low& to, const Low& from) {
                     to.sum[0] += from.sum[0];
                     to.sum[1] += from.sum[1];
                   });
    }
    block.each_lane([&](int lane) {
      if (LEADING && (lane & 3) == 0) {
        for (int s = 0; s < 2; ++s) shared.low[16 * warp + 8 * s + (lane >> 2)] = low(lane).sum[s];
      }
      list_outside(block, shared, state(warp, lane), p, v0, 16 * warp + (lane >> 2), lane & 3);
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          std::int64_t sum = 0;
          ISOLOGIT_UNROLL
          for (int o = kOrders - 1; o >= 0; --o) {  // anew, or they are widened before the products and spill
            sum += block.anew(state(warp, lane).c[o][n][i]) * (std::int64_t{1} << 8 * o);
          }
          shared.after.sums[warp][8 * n + 2 * (lane & 3) + (i & 1)][8 * (i >> 1) + (lane >> 2)] = sum;
        }
      }
    });
    block.sync_warp();
    block.each_lane([&](int lane) {
      const int tile_begin = (v0 + kWeightRows - 1) / kWeightRows * kWeightRows;
      if (v0 + 16 * warp + lane % 16 < tile_begin) return;  // the tile before has that row too
      ISOLOGIT_ROLLED
      for (int first = lane / 16; first < kHiddenRows && row0 + first < p.rows; first += 2 * kAtOnce) {
        finish_some(shared, p, warp, v0, row0, first, lane % 16);
      }
    });
  }

  // A sum, and a bound of what its additions have lost.
  struct Bounded {
    double sum, lost;
    ISOLOGIT_DEVICE void add(double x) { lost += fabs(two_sum(sum, x)); }
  };

  // Logits of a weight row and every second hidden row from `first` on.
  ISOLOGIT_DEVICE static void finish_some(const Shared& shared, const Product& p, int warp, int v0, int row0, int first,
                                          int column) {
    const int own = 16 * warp + column;
    const int v = v0 + own;
    const int outside = static_cast<int>(shared.outside[own]);
    Bounded z[kAtOnce];
    ISOLOGIT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = hidden_row(p, row0, first, i);
      std::int64_t sum = shared.after.sums[warp][first + 2 * i][column];
      const WholeFacts& whole = p.hidden_digits.facts[row].whole;
      double left_out = 0.0;  // at most so much of what is not in the sum
      if (LEADING) {
        sum = (sum << 8 * kLeast) - whole.sum * (std::int64_t{1} << 23) + whole.low_sum * (std::int64_t{1} << 15);
        left_out = 0x1p15 * whole.low_size + static_cast<double>(whole.most) * static_cast<double>(shared.low[own]);
      } else {
        sum -= whole.sum * (std::int64_t{1} << 22);
      }
      const double unit = power_of_two(shared.window[own] - kUnitOfWeight + p.hidden_digits.facts[row].window - kUnit);
      const auto high = static_cast<double>(sum);
      z[i] = {high * unit, left_out * unit};
      z[i].add(static_cast<double>(sum - static_cast<std::int64_t>(high)) * unit);
    }
    // (whole + rest) (whole + rest), of which the first product is there.
    ISOLOGIT_ROLLED
    for (int j = 0; j < outside && j < kMostOutside; ++j) {
      const Outside element = shared.after.list[own][j];
      ISOLOGIT_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const std::uint32_t word =
            p.words[static_cast<std::int64_t>(hidden_row(p, row0, first, i)) * p.depth + element.k];
        z[i].add(static_cast<double>(element.rest) * (from_words(word, 0) * power_of_two(-kHiddenBias)));
      }
    }
    ISOLOGIT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = row0 + first + 2 * i;
      if (row >= p.rows) continue;
      const bool usable = outside <= kMostOutside && p.hidden_digits.facts[row].is_usable();
      p.store(row, v, usable ? finished(shared, p, z[i], row, v, own) : open_mark());
    }
  }

  ISOLOGIT_DEVICE static int hidden_row(const Product& p, int row0, int first, int i) {
    const int row = row0 + first + 2 * i;
    return row < p.rows ? row : p.rows - 1;
  }

  ISOLOGIT_DEVICE static float finished(const Shared& shared, const Product& p, Bounded& z, int row, int v, int own) {
    const DigitFacts& hidden = p.hidden_digits.facts[row];
    ISOLOGIT_ROLLED
    for (int i = 0; i < hidden.outside; ++i) {
      const Outside element = hidden.list[i];
      const float w = Bf16::value(weight_row(p, v)[element.k]);
      const float scale = static_cast<float>(power_of_two(kWeightUnit - shared.window[own]));
      const auto whole = static_cast<double>(w) - static_cast<double>(rest_of(w, scale, shared.window[own]));
      z.add(static_cast<double>(element.rest) * whole);
    }
    if (p.bias != nullptr) z.add(static_cast<double>(p.bias_of(v)));
    if (z.lost == 0.0) return round_once(z.sum, p.logits_type);
    const double error = z.lost * (1.0 + 0x1p-40) + fabs(z.sum) * 0x1p-51;
    const float low = round_once(z.sum - error, p.logits_type);
    return low == round_once(z.sum + error, p.logits_type) ? low : open_mark();  // never with NaN
  }
};

}  // namespace isologit::detail::cuda
