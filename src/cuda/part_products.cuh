// The products of gradients (outer.cuh) where the other operand is bf16: of parts (parts.cuh, with the proof), by f32
// sums of bf16 products on the tensor cores, in chains of a group of 64 of the depth that f64 sums take up.
//
// Chains and the order in which they are added are the same whatever is made at a time, and nothing of a chain depends
// on what is outside its group. After the chain of a group come the products of its odd rows, in f64, one by one.
//
// A group of both operands passes through shared memory at a time, by copies that run beside the arithmetic; a warp
// owns 32 by 32 results, whose f64 sums stay in registers. Predicted: the rate of fast.cuh's multiplications, so for
// both products of 1024 rows, V=151936, H=4096, 22 ms at the 231 TFLOP/s that those reach on an H100, and some 2 for
// the ends of tiles. Measured: not yet.
#pragma once

#include "cuda/gradient_sums.cuh"
#include "cuda/parts.cuh"

namespace isologit::detail::cuda {

struct PartProduct : GradientSums {
  const std::uint32_t* parts;  // as Parts has them
  std::int64_t parts_stride;
  const double* units;
  std::int64_t unit_stride;
  const GroupRows* groups;  // of the other operand
  const void* other;        // [depth, cols]
  std::int64_t other_stride;
  bool aligned;  // of `other`: 16 bytes at a time
  int depth;
  const std::uint32_t* words;  // dz, for odd rows: [rows, depth] or by depth
  std::int64_t words_stride;
};

// BY_ROWS: dz lies by rows of the result, which are hidden rows (dhidden); else by depth, which is (dweight). WN warps
// side by side share rows.
template <class BlockType, bool BY_ROWS, int WN>
struct PartProducts {
  using Block = BlockType;
  using Args = PartProduct;
  static constexpr int MT = 2;
  static constexpr int NT = 4;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int kBlocksPerProcessor = kWarps > 4 ? 1 : 2;
  static constexpr int kRows = 16 * MT * kWarps / WN;
  static constexpr int kCols = 8 * NT * WN;
  static constexpr int kPieces = kCols / 8;  // of a row of the other operand
  static constexpr int kStages = 2;          // of which one is copied while the other is multiplied
  static_assert(kRows <= Block::kThreads && kCols <= Block::kThreads && kPieces % 8 == 0);

  // Piece i of row r lies at i ^ (r & 7), so that lanes that read together meet in no bank.
  struct Stage {
    Sixteen parts[2][kRows][8];
    Sixteen other[kPartGroup][kPieces];
    double units[kRows];
  };
  // Sums on their way between memory and registers: of half the rows at a time, the first or last 16 of each warp's.
  struct Half {
    double sum[kRows / 2][kCols + 8];  // so that lanes meet in no bank
  };
  struct Shared {
    union {
      Stage stage[kStages];
      Half half;
    };
    GroupRows groups[kMostGroups];
  };
  struct Lane {
    double sum[MT][NT][4];
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const PartProduct& p, int row_tile, int col_tile) {
    typename Block::template PerThread<Lane> state;
    const int row0 = row_tile * kRows;
    const int col0 = col_tile * kCols;
    const int groups = (p.depth + kPartGroup - 1) / kPartGroup;
    begin(block, shared, state, p, row0, col0);
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (32 * warp + lane < groups) shared.groups[32 * warp + lane] = p.groups[32 * warp + lane];
      });
    });
    block.sync();
    fetch(block, shared, p, row0, col0, 0, groups);
    for (int group = 0; group < groups; ++group) {
      block.template wait<0>();
      block.sync();  // this stage is there for all, and all are done with the one before it
      fetch(block, shared, p, row0, col0, group + 1, groups);
      Stage& stage = shared.stage[group % kStages];
      block.each_warp([&](int warp) { multiply(block, stage, state, warp); });
      add_odd(block, stage, shared.groups[group], state, p, row0, col0, group * kPartGroup);
    }
    finish(block, shared, state, p, row0, col0);
  }

 private:
  ISOLOGIT_DEVICE static int place_in(int row, int piece) { return piece ^ (row & 7); }

  // Calls use(sum, row, col) for the sums of 16 rows of a warp, with where they lie in a Half.
  template <class Use>
  ISOLOGIT_DEVICE static void each(Lane& own, int m, int warp, int lane, Use use) {
    ISOLOGIT_UNROLL
    for (int n = 0; n < NT; ++n) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        use(own.sum[m][n][i], 16 * (warp / WN) + 8 * (i >> 1) + (lane >> 2),
            8 * (NT * (warp % WN) + n) + 2 * (lane & 3) + (i & 1));
      }
    }
  }
  // Calls use(sum, row, col) for what a Half holds, a thread after the other, with rows and columns of the result.
  template <class Use>
  ISOLOGIT_DEVICE static void each_of(Block& block, Half& half, int m, int row0, int col0, Use use) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        ISOLOGIT_ROLLED
        for (int at = 32 * warp + lane; at < kRows / 2 * kCols; at += Block::kThreads) {
          const int row = at / kCols;
          const int col = at % kCols;
          use(half.sum[row][col], row0 + row / 16 * 16 * MT + 16 * m + row % 16, col0 + col);
        }
      });
    });
  }

  template <class State>
  ISOLOGIT_DEVICE static void begin(Block& block, Shared& shared, State& state, const PartProduct& p, int row0,
                                    int col0) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      if (!p.begins) {
        block.sync();
        each_of(block, shared.half, m, row0, col0, [&](double& sum, int row, int col) { sum = p.before(row, col); });
        block.sync();
      }
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) {
          each(state(warp, lane), m, warp, lane,
               [&](double& sum, int row, int col) { sum = p.begins ? 0.0 : shared.half.sum[row][col]; });
        });
      });
    }
  }
  template <class State>
  ISOLOGIT_DEVICE static void finish(Block& block, Shared& shared, State& state, const PartProduct& p, int row0,
                                     int col0) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      block.sync();
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) {
          each(state(warp, lane), m, warp, lane,
               [&](double sum, int row, int col) { shared.half.sum[row][col] = sum; });
        });
      });
      block.sync();
      each_of(block, shared.half, m, row0, col0,
              [&](double sum, int row, int col) { p.template keep<BY_ROWS>(row, col, sum); });
    }
  }

  // Begins the copy of a group's stage, if there is one. Of the other operand's rows those that are not plain are
  // zeros.
  ISOLOGIT_DEVICE static void fetch(Block& block, Shared& shared, const PartProduct& p, int row0, int col0, int group,
                                    int groups) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (group < groups) {
          const int thread = block.anew(32 * warp + lane);
          copy_parts(block, shared.stage[group % kStages], p, row0, group, thread);
          copy_other(block, shared, p, col0, group, thread);
        }
        block.end_group();
      });
    });
  }

  ISOLOGIT_DEVICE static void copy_parts(Block& block, Stage& to, const PartProduct& p, int row0, int group,
                                         int thread) {
    ISOLOGIT_ROLLED
    for (int place = thread; place < kRows * 16; place += Block::kThreads) {
      const int row = place / 16;
      const int from = row0 + row < p.rows ? row0 + row : p.rows - 1;
      block.copy(&to.parts[place / 8 % 2][row][place_in(row, place % 8)],
                 p.parts + from * p.parts_stride + group * kPartGroup + place % 16 * 4);
    }
    if (thread < kRows / 2) {
      const int pair = row0 + 2 * thread;
      block.copy(&to.units[2 * thread], p.units + group * p.unit_stride + (pair < p.rows ? pair : 0));
    }
  }

  ISOLOGIT_DEVICE static void copy_other(Block& block, Shared& shared, const PartProduct& p, int col0, int group,
                                         int thread) {
    ISOLOGIT_ROLLED
    for (int place = thread; place < kPartGroup * kPieces; place += Block::kThreads) {
      const int d = place / kPieces;
      const int col = col0 + place % kPieces * 8;
      const bool there = shared.groups[group].is_plain(d) && col < p.cols;
      const auto* row = static_cast<const std::uint16_t*>(p.other) +
                        (there ? static_cast<std::int64_t>(group) * kPartGroup + d : 0) * p.other_stride;
      Sixteen* to = &shared.stage[group % kStages].other[d][place_in(d, place % kPieces)];
      if (p.aligned) {
        block.copy_or_zero(to, row + (there ? col : 0), there);
      } else {
        *to = load_chunk<Bf16, false>(row, col, there ? p.cols : 0).part[0];
      }
    }
  }

  // The chains of a group, and their end in the sums.
  struct Others {
    std::uint32_t b[kPartGroup / 32][NT][4];  // of two multiplications
  };
  template <class State>
  ISOLOGIT_DEVICE static void multiply(Block& block, const Stage& from, State& state, int warp) {
    typename Block::template PerLane<Others> others;
    ISOLOGIT_UNROLL
    for (int i = 0; i < kPartGroup / 32; ++i) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        block.template load_tiles<true>(
            [&](int lane) -> std::uint32_t* { return others(lane).b[i][n]; },
            [&](int lane) { return &from.other[32 * i + lane][place_in(lane, NT * (warp % WN) + n)]; });
      }
    }
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) chains(block, from, others, state, m, warp);
  }

  // Of 16 rows of these: the small parts first.
  template <class OthersOf, class State>
  ISOLOGIT_DEVICE static void chains(Block& block, const Stage& from, OthersOf& others, State& state, int m, int warp) {
    struct A {
      std::uint32_t a[4];
    };
    struct C {
      float c[NT][4];
    };
    const int row0 = 16 * (MT * (warp / WN) + m);
    typename Block::template PerLane<C> chain;
    block.each_lane([&](int lane) { chain(lane) = {}; });
    ISOLOGIT_UNROLL
    for (int part = 1; part >= 0; --part) {
      ISOLOGIT_UNROLL
      for (int i = 0; i < kPartGroup / 16; ++i) {
        typename Block::template PerLane<A> a;
        block.template load_tiles<false>([&](int lane) -> std::uint32_t* { return a(lane).a; },
                                         [&](int lane) {
                                           const int row = row0 + lane % 16;
                                           return &from.parts[part][row][place_in(row, 2 * i + lane / 16)];
                                         });
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; ++n) {
          block.template mma_f32<Bf16>(
              [&](int lane) -> float* { return chain(lane).c[n]; },
              [&](int lane) -> const std::uint32_t* { return a(lane).a; },
              [&](int lane) -> const std::uint32_t* { return others(lane).b[i / 2][n] + 2 * (i % 2); });
        }
      }
    }
    block.each_lane([&](int lane) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          double& sum = state(warp, lane).sum[m][n][i];
          sum = fused(static_cast<double>(chain(lane).c[n][i]), from.units[row0 + 8 * (i >> 1) + (lane >> 2)], sum);
        }
      }
    });
  }

  // The products of a group's odd rows, for which the stage is used again.
  template <class State>
  ISOLOGIT_DEVICE static void add_odd(Block& block, Stage& stage, const GroupRows& rows, State& state,
                                      const PartProduct& p, int row0, int col0, int first) {
    auto* const elements = reinterpret_cast<std::uint16_t*>(stage.other);
    auto* const words = reinterpret_cast<std::uint32_t*>(stage.parts);
    std::uint64_t odd = rows.all_odd();
    ISOLOGIT_ROLLED
    for (std::int64_t d = first; odd != 0; ++d, odd >>= 1) {
      if ((odd & 1U) == 0) continue;
      block.sync();
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) {
          const int thread = 32 * warp + lane;
          if (thread < kCols) {
            const int col = col0 + thread;
            const auto* other = static_cast<const std::uint16_t*>(p.other) + d * p.other_stride;
            elements[thread] = col < p.cols ? other[col] : std::uint16_t{0};
          }
          if (thread < kRows) {
            const int row = row0 + thread;
            words[thread] = row < p.rows ? p.words[BY_ROWS ? row * p.words_stride + d : d * p.words_stride + row] : 0;
          }
        });
      });
      block.sync();
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) {
          ISOLOGIT_UNROLL
          for (int m = 0; m < MT; ++m) {
            each(state(warp, lane), m, warp, lane, [&](double& sum, int row, int col) {
              const double dz = from_words(words[row / 16 * 16 * MT + 16 * m + row % 16], 0);
              sum = fused(dz, static_cast<double>(Bf16::value(elements[col])), sum);
            });
          }
        });
      });
    }
  }
};

}  // namespace isologit::detail::cuda
