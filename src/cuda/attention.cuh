// Attention of bf16 and f16: f64 tensor cores over the keys that a tile of rows sees, 64 at a time, no score in memory.
//
// A block has up to kRows rows of a sequence and kv head (attention_request.cuh). For each tile of keys: warp w makes
// the scores of keys 16 w to 16 w + 15; the greatest score of a row, rounded to a power of two, is the unit of its
// weights, so that a greater one rescales the sums exactly; weights go through shared memory; warp w sums the values'
// elements 16 (w + 4 m) to 16 (w + 4 m) + 15, those of a tile by themselves, which keeps the bound of the sums apart
// from the number of keys. Keys come while the values of the tile before are summed, values while scores are made.
// Where there are too few tiles of rows for a device, blocks split the keys, and Merge adds their sums. What f64 leaves
// open Settle decides (attention_settle.cuh).
//
// Predicted (H100): prefill 4 dim operations a row and key at 50 to 60 TFLOP/s: 0.65 ms for 2048 tokens of 32 heads of
// 128 (causal, 34 GFLOP in whole tiles 36); beside each product of 256 elements, 64 cycles of a quarter of a processor,
// lie 4 to 6 cycles of other f64 for exponentials and some 50 of 32-bit operations for each 4 products. Decode: the
// bytes of keys and values, 16 MiB and 6 us for 8 kv heads of 128 and 4096 keys, a tile of 64 keys at a time 1 us, and
// two more launches. Two blocks a processor, by registers (up to 216 on sm_90) and 74 or 96 KiB of shared memory.
// Of normal data f64 leaves open one result in 2^24 (4096 keys that weigh alike) to 2^28. Measured: not yet.
#pragma once

#include "cuda/attention_end.cuh"
#include "cuda/attention_tile.cuh"

namespace isologit::detail::cuda {

template <class BlockType, class E, int DIM>
struct Attend : AttentionTile<BlockType, E, DIM> {
  using Block = BlockType;
  using Args = AttentionRequest;
  using Tile = AttentionTile<Block, E, DIM>;
  using Tile::kKeys;
  using Tile::kRows;
  using Tile::NT;
  using typename Tile::Bits;
  using typename Tile::Keys;
  using typename Tile::Place;
  using typename Tile::Shared;
  static constexpr int kBlocksPerProcessor = 2;
  static constexpr int MT = DIM / 16 / Block::kWarps;
  static_assert(sizeof(Shared) <= 99 * 1024, "the least that a block of any device may have");

  struct Lane {
    double sums[MT][NT][4];
    double scores[NT][4];
    double weight[NT][2];
    int scale[NT][2];
    std::uint32_t greatest_value[MT];  // of two adjacent elements each
    std::uint32_t greatest_key;        // bits of its length squared
  };
  using State = typename Block::template PerThread<Lane>;

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const AttentionRequest& p, int index, int split) {
    if (index == 0 && split == 0) check_sequences(block, p);
    const RowTile rows = row_tile<kRows>(p, index);
    if (rows.rows == 0) return;
    const Keys keys = keys_of(p, rows, split);
    State state;
    load_rows(block, shared, p, rows, keys);
    find_places(block, shared, p, rows, keys, 0);
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) { begin(state(warp, lane), shared, warp, lane, split == 0); });
    });
    fetch(block, shared.keys, p, p.keys, shared.places[0], &Place::key);
    fetch(block, shared.values, p, p.values, shared.places[0], &Place::value);
    const int used = (rows.rows + 7) / 8;
    ISOLOGIT_ROLLED
    for (int t = 0; t * kKeys < keys.count; ++t) {
      find_places(block, shared, p, rows, keys, t + 1);
      block.template wait<1>();
      block.sync();  // the keys are there
      block.each_warp([&](int warp) {
        multiply_keys(block, shared, p, state, warp, used);
        find_tops(block, shared, p, state, warp, used, t);
      });
      block.sync();
      fetch(block, shared.keys, p, p.keys, shared.places[(t + 1) % 2], &Place::key);
      block.each_warp(
          [&](int warp) { block.each_lane([&](int lane) { weigh(state(warp, lane), shared, warp, lane, used); }); });
      block.template wait<1>();
      block.sync();  // the values are there, and the weights
      block.each_warp([&](int warp) { multiply_values(block, shared, p, state, warp, used); });
      block.sync();
      fetch(block, shared.values, p, p.values, shared.places[(t + 1) % 2], &Place::value);
    }
    block.template wait<0>();
    gather(block, shared, state);
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (p.splits == 1) {
          store(state(warp, lane), shared, p, rows, warp, lane);
        } else {
          leave(state(warp, lane), shared, p, rows, warp, lane, static_cast<std::int64_t>(index) * p.splits + split);
        }
      });
    });
  }

 private:
  using Tile::fetch;
  using Tile::find_places;
  using Tile::keys_of;
  using Tile::load_rows;

  ISOLOGIT_DEVICE static void begin(Lane& own, const Shared& shared, int warp, int lane, bool has_sinks) {
    own.greatest_key = 0;
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      own.greatest_value[m] = 0;
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) own.sums[m][n][i] = 0.0;
      }
    }
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float sink = shared.sink[8 * n + 2 * (lane & 3) + i];
        const bool is_weight = has_sinks && fabsf(sink) < static_cast<float>(kMostScore);
        const NearExponential e = exponential_parts(is_weight ? static_cast<double>(sink) : 0.0);
        own.scale[n][i] = is_weight ? e.k : kNoScale;
        own.weight[n][i] = is_weight && warp == 0 && lane < 4 ? e.m : 0.0;
      }
    }
  }

  // The scores' dot products. Lane (g, t) holds elements 8 t to 8 t + 7 of a step, of keys g and g + 8 of its warp's.
  ISOLOGIT_DEVICE static void multiply_keys(Block& block, Shared& shared, const AttentionRequest& p, State& state,
                                            int warp, int used) {
    block.each_lane([&](int lane) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) state(warp, lane).scores[n][i] = 0.0;
      }
    });
    struct A {
      double a[8];
    };
    struct B {
      double b[4];
    };
    struct Squares {
      float of[2];
    };
    typename Block::template PerLane<Squares> squares;
    block.each_lane([&](int lane) { squares(lane) = {{0.0F, 0.0F}}; });
    typename Block::template PerLane<Chunk<E>> rows[2];
    ISOLOGIT_ROLLED
    for (int step = 0; step * kStep < p.dim; ++step) {
      block.each_lane([&](int lane) {
        ISOLOGIT_UNROLL
        for (int s = 0; s < 2; ++s) {
          Chunk<E>& chunk = rows[s](lane);
          const Bits* at = &shared.keys[16 * warp + 8 * s + (lane >> 2)][step * kStep + 8 * (lane & 3)];
          chunk.part[0] = *reinterpret_cast<const Sixteen*>(at);
          ISOLOGIT_UNROLL
          for (int j = 0; j < 8; ++j) squares(lane).of[s] = fused(chunk.value(j), chunk.value(j), squares(lane).of[s]);
        }
      });
      ISOLOGIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        typename Block::template PerLane<A> a;
        block.each_lane([&](int lane) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < 4; ++i) {
            a(lane).a[2 * i] = rows[0](lane).widen(4 * half + i);
            a(lane).a[2 * i + 1] = rows[1](lane).widen(4 * half + i);
          }
        });
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          if (n >= used) continue;
          typename Block::template PerLane<B> b;
          block.each_lane([&](int lane) {
            const std::uint32_t* at = &shared.words[8 * n + (lane >> 2)][step * kStep + 8 * (lane & 3) + 4 * half];
            const Sixteen words = *reinterpret_cast<const Sixteen*>(at);
            ISOLOGIT_UNROLL
            for (int i = 0; i < 4; ++i) b(lane).b[i] = from_words(words.word[i], 0);
          });
          block.mma([&](int lane) -> double* { return state(warp, lane).scores[n]; },
                    [&](int lane) -> const double* { return a(lane).a; },
                    [&](int lane) -> const double* { return b(lane).b; });
        }
      }
    }
    ISOLOGIT_UNROLL
    for (int s = 0; s < 2; ++s) {
      block.reduce([&](int lane) -> float& { return squares(lane).of[s]; }, 1, 4, [](float& a, float b) { a += b; });
      block.each_lane([&](int lane) {
        std::uint32_t& greatest = state(warp, lane).greatest_key;
        greatest = greatest_of(greatest, bit_cast<std::uint32_t>(squares(lane).of[s]));
      });
    }
  }

  // Makes scores of the products, -inf of keys that a row does not see, and tells the power of two next to the
  // greatest.
  ISOLOGIT_DEVICE static void find_tops(Block& block, Shared& shared, const AttentionRequest& p, State& state, int warp,
                                        int used, int t) {
    struct Tops {
      int of[NT][2];
    };
    typename Block::template PerLane<Tops> tops;
    block.each_lane([&](int lane) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int row = 8 * n + 2 * (lane & 3) + i;
          int top = kNoScale;
          ISOLOGIT_UNROLL
          for (int s = 0; s < 2; ++s) {
            if (n >= used) continue;
            double& score = state(warp, lane).scores[n][i + 2 * s];
            const int at = t * kKeys + 16 * warp + 8 * s + (lane >> 2);
            score = score_of(p, unscale<E>(score));
            if (at < shared.begin[row] || at >= shared.end[row]) score = static_cast<double>(minus_infinity());
            const int own = score > -0x1p21 ? static_cast<int>(rint(score * 0x1.71547652b82fep0)) : kNoScale;
            top = own > top ? own : top;
          }
          tops(lane).of[n][i] = top;
        }
      }
    });
    block.reduce([&](int lane) -> Tops& { return tops(lane); }, 4, 32,
                 [](Tops& to, const Tops& from) {
                   ISOLOGIT_UNROLL
                   for (int n = 0; n < NT; ++n) {
                     ISOLOGIT_UNROLL
                     for (int i = 0; i < 2; ++i)
                       to.of[n][i] = from.of[n][i] > to.of[n][i] ? from.of[n][i] : to.of[n][i];
                   }
                 });
    block.each_lane([&](int lane) {
      if (lane >= 4) return;
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 2; ++i) shared.top[warp][8 * n + 2 * lane + i] = tops(lane).of[n][i];
      }
    });
  }

  // Within 2^20, beyond which a row is open anyway.
  ISOLOGIT_DEVICE static double score_of(const AttentionRequest& p, double product) {
    double score = product * static_cast<double>(p.scale);
    if (p.softcap != 0) score = capped_near(score, static_cast<double>(p.softcap));
    score = score > -0x1p20 ? score : -0x1p20;
    return score < 0x1p20 ? score : 0x1p20;
  }

  // Weights of the scores, in units that the greatest of the row so far fits in; what was summed goes to these units.
  ISOLOGIT_DEVICE static void weigh(Lane& own, Shared& shared, int warp, int lane, int used) {
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      if (n >= used) continue;
      ISOLOGIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int row = 8 * n + 2 * (lane & 3) + i;
        int scale = own.scale[n][i];
        ISOLOGIT_UNROLL
        for (int w = 0; w < Block::kWarps; ++w) scale = shared.top[w][row] > scale ? shared.top[w][row] : scale;
        const double factor = rescaling(own.scale[n][i], scale);
        own.scale[n][i] = scale;
        own.weight[n][i] *= factor;
        ISOLOGIT_UNROLL
        for (int m = 0; m < MT; ++m) {
          own.sums[m][n][i] *= factor;
          own.sums[m][n][i + 2] *= factor;
        }
        ISOLOGIT_UNROLL
        for (int s = 0; s < 2; ++s) {
          const double score = own.scores[n][i + 2 * s];
          const bool is_seen = score > -0x1p21;
          const NearExponential e = exponential_parts(is_seen ? score : 0.0);
          const bool is_weight = is_seen && e.k - scale >= -1000;
          const int unit = is_weight ? e.k - scale : 0;
          own.weight[n][i] += is_weight ? e.m * power_of_two(unit) : 0.0;
          shared.weights[row][16 * warp + 8 * s + (lane >> 2)] = is_weight ? e.m * power_of_two(unit + E::kBias) : 0.0;
        }
      }
    }
  }

  // Adds weights times values, those of the tile by themselves before. Lane (g, t) holds elements 2 g and 2 g + 1 of
  // 16, of keys t + 4 i of 16.
  ISOLOGIT_DEVICE static void multiply_values(Block& block, Shared& shared, const AttentionRequest& p, State& state,
                                              int warp, int used) {
    struct A {
      double a[8];
    };
    struct B {
      double b[4];
    };
    struct C {
      double c[NT][4];
    };
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      const int d = 16 * (warp + m * Block::kWarps);
      if (d >= p.values.dim) continue;
      typename Block::template PerLane<C> own;
      block.each_lane([&](int lane) { own(lane) = {}; });
      ISOLOGIT_ROLLED
      for (int k = 0; k < kKeys; k += 16) {
        typename Block::template PerLane<A> a;
        block.each_lane([&](int lane) {
          std::uint32_t& greatest = state(warp, lane).greatest_value[m];
          ISOLOGIT_UNROLL
          for (int i = 0; i < 4; ++i) {
            const Bits* at = &shared.values[k + (lane & 3) + 4 * i][d + 2 * (lane >> 2)];
            const std::uint32_t two = *reinterpret_cast<const std::uint32_t*>(at);
            greatest = most_of_halves(greatest, two & 0x7FFF7FFFU);
            a(lane).a[2 * i] = E::widen(two & 0xFFFFU);
            a(lane).a[2 * i + 1] = E::widen(two >> 16);
          }
        });
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          if (n >= used) continue;
          typename Block::template PerLane<B> b;
          block.each_lane([&](int lane) {
            ISOLOGIT_UNROLL
            for (int i = 0; i < 4; ++i) b(lane).b[i] = shared.weights[8 * n + (lane >> 2)][k + (lane & 3) + 4 * i];
          });
          block.mma([&](int lane) -> double* { return own(lane).c[n]; },
                    [&](int lane) -> const double* { return a(lane).a; },
                    [&](int lane) -> const double* { return b(lane).b; });
        }
      }
      block.each_lane([&](int lane) {
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < 4; ++i) state(warp, lane).sums[m][n][i] += own(lane).c[n][i];
        }
      });
    }
  }

  // The sums of weights, and the greatest elements.
  ISOLOGIT_DEVICE static void gather(Block& block, Shared& shared, State& state) {
    const auto greater = [](std::uint32_t& a, std::uint32_t b) { a = most_of_halves(a, b); };
    block.each_warp([&](int warp) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 2; ++i) {
          block.reduce([&](int lane) -> double& { return state(warp, lane).weight[n][i]; }, 4, 32,
                       [](double& a, double b) { a += b; });
        }
      }
      ISOLOGIT_UNROLL
      for (int m = 0; m < MT; ++m) {
        block.reduce([&](int lane) -> std::uint32_t& { return state(warp, lane).greatest_value[m]; }, 1, 4, greater);
      }
      block.reduce([&](int lane) -> std::uint32_t& { return state(warp, lane).greatest_key; }, 1, 32,
                   [](std::uint32_t& a, std::uint32_t b) { a = greatest_of(a, b); });
      block.each_lane([&](int lane) {
        const Lane& own = state(warp, lane);
        if (lane == 0) shared.greatest_key[warp] = own.greatest_key;
        if (lane >= 4) return;
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < 2; ++i) shared.total[warp][8 * n + 2 * lane + i] = own.weight[n][i];
        }
      });
    });
  }
  ISOLOGIT_DEVICE static std::uint32_t greatest_key(const Shared& shared) {
    std::uint32_t greatest = 0;
    ISOLOGIT_UNROLL
    for (const std::uint32_t of_warp : shared.greatest_key) greatest = greatest_of(greatest, of_warp);
    return greatest;
  }
  ISOLOGIT_DEVICE static double total(const Shared& shared, int row) {
    double sum = 0.0;
    ISOLOGIT_UNROLL
    for (int w = 0; w < Block::kWarps; ++w) sum += shared.total[w][row];
    return sum;
  }

  // Uses the sums of a lane: use(row, element, sum, bits of the element's greatest |value|).
  template <class Use>
  ISOLOGIT_DEVICE static void each_sum(const Lane& own, int warp, int n, int i, int lane, Use use) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int s = 0; s < 2; ++s) {
        const int d = 16 * (warp + m * Block::kWarps) + 2 * (lane >> 2) + s;
        use(d, own.sums[m][n][i + 2 * s], own.greatest_value[m] >> 16 * s & 0xFFFFU);
      }
    }
  }

  ISOLOGIT_DEVICE static void store(const Lane& own, const Shared& shared, const AttentionRequest& p,
                                    const RowTile& rows, int warp, int lane) {
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int row = 8 * n + 2 * (lane & 3) + i;
        if (row >= rows.rows) continue;
        const RowEnd end = row_end(p, total(shared, row), shared.q_length[row], greatest_key(shared),
                                   rows.seen_by(p, row), shared.sink[row]);
        const std::int64_t to = p.y.rows.offset_of(rows.row_of(p, row));
        each_sum(own, warp, n, i, lane, [&](int d, double sum, std::uint32_t greatest) {
          if (d < p.values.dim) store_result(p.y.data, p.y.type, to + d, attended(sum, end, greatest, p.y.type));
        });
      }
    }
  }

  ISOLOGIT_DEVICE static void leave(const Lane& own, const Shared& shared, const AttentionRequest& p,
                                    const RowTile& rows, int warp, int lane, std::int64_t number) {
    Partial<kRows, DIM>& to = static_cast<Partial<kRows, DIM>*>(p.partials)[number];
    if (warp == 0 && lane == 0) to.greatest_key = greatest_key(shared);
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int row = 8 * n + 2 * (lane & 3) + i;
        if (row >= rows.rows) continue;
        if (warp == 0 && lane < 4) {
          to.weight[row] = total(shared, row);
          to.q_length[row] = shared.q_length[row];
          to.scale[row] = own.scale[n][i];
        }
        each_sum(own, warp, n, i, lane, [&](int d, double sum, std::uint32_t greatest) {
          to.sums[row][d] = sum;
          if (row == 0) to.greatest_value[d] = greatest;
        });
      }
    }
  }
};

}  // namespace isologit::detail::cuda
