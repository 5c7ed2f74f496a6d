// The products of gradients (outer.cuh) where the other operand is bf16: of parts (parts.cuh, with the proof), by f32
// sums of bf16 products on the tensor cores, in chains of a group of 64 of the depth that f64 sums take up.
//
// Chains and the order in which they are added are the same whatever is made at a time, and nothing of a chain depends
// on what is outside its group. After the chain of a group come the products of its odd rows, in f64, one by one.
//
// A group of both operands passes through shared memory at a time, by copies that run beside the arithmetic; a warp
// owns 32 rows and 8 NT columns, whose f64 sums stay in registers. Predicted: the rate of fast.cuh's multiplications,
// so for both products of 1024 rows, V=151936, H=4096, 22 ms at the 231 TFLOP/s that those reach on an H100. Measured:
// not yet.
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
template <class BlockType, bool BY_ROWS, int NT, int WN>
struct PartProducts {
  using Block = BlockType;
  using Args = PartProduct;
  static constexpr int MT = 2;
  static constexpr int kWarps = Block::kWarps;
  static constexpr int kBlocksPerProcessor = kWarps == 8 ? 1 : 2;
  static constexpr int kRows = 16 * MT * kWarps / WN;
  static constexpr int kCols = 8 * NT * WN;
  static constexpr int kPieces = kCols / 8;  // of a row of the other operand
  static constexpr int kStages = 2;          // of which one is copied while the other is multiplied
  static constexpr int kTogether = 4;        // tiles of columns whose chains are made at a time
  static constexpr int kPartCopies = kRows * 16 / Block::kThreads;
  static constexpr int kOtherCopies = kPartGroup * kPieces / Block::kThreads;
  static_assert(kPartTile % kRows == 0 && kPieces % 8 == 0 && NT % kTogether == 0);

  // Piece i of row r of the parts lies at i ^ 4 (r & 1), piece i of row d of the other operand at turned(i, d): lanes
  // that read together meet in no bank.
  struct Stage {
    Sixteen parts[2][kRows][8];
    Sixteen other[kPartGroup][kPieces];
    double units[kRows];
  };
  struct Shared {
    Stage stage[kStages];
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
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        each(state(warp, lane), row_of(row0, warp), col_of(col0, warp), lane,
             [&](double& sum, int row, int col) { sum = p.before(row, col); });
        if (32 * warp + lane < groups) shared.groups[32 * warp + lane] = p.groups[32 * warp + lane];
      });
    });
    block.sync();
    fetch(block, shared, p, row0, col0, 0, groups);
    for (int group = 0; group < groups; ++group) {
      block.template wait<0>();
      block.sync();  // this stage is there for all, and all are done with the one before it
      fetch(block, shared, p, row0, col0, group + 1, groups);
      const Stage& stage = shared.stage[group % kStages];
      block.each_warp([&](int warp) {
        ISOLOGIT_UNROLL
        for (int n = 0; n < NT; n += kTogether) multiply(block, stage, state, n, warp);
      });
      add_odd(block, shared.groups[group], state, p, row0, col0, group * kPartGroup);
    }
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        each(state(warp, lane), row_of(row0, warp), col_of(col0, warp), lane,
             [&](double sum, int row, int col) { p.template keep<BY_ROWS>(row, col, sum); });
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static int row_of(int row0, int warp) { return row0 + warp / WN * 16 * MT; }
  ISOLOGIT_DEVICE static int col_of(int col0, int warp) { return col0 + warp % WN * 8 * NT; }
  ISOLOGIT_DEVICE static int turned(int piece, int d) { return piece ^ ((d >> 2 & 6) | (d & 1)); }

  // Calls use(sum, row, col) for the sums of a lane.
  template <class Use>
  ISOLOGIT_DEVICE static void each(Lane& own, int row0, int col0, int lane, Use use) {
    ISOLOGIT_UNROLL
    for (int m = 0; m < MT; ++m) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < NT; ++n) {
        ISOLOGIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          use(own.sum[m][n][i], row0 + 16 * m + 8 * (i >> 1) + (lane >> 2), col0 + 8 * n + 2 * (lane & 3) + (i & 1));
        }
      }
    }
  }

  // Begins the copy of a group's stage, if there is one. Of the other operand's rows those that are not plain are
  // zeros.
  ISOLOGIT_DEVICE static void fetch(Block& block, Shared& shared, const PartProduct& p, int row0, int col0, int group,
                                    int groups) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (group < groups) {
          copy_parts(block, shared.stage[group % kStages], p, row0, group, 32 * warp + lane);
          copy_other(block, shared, p, col0, group, 32 * warp + lane);
        }
        block.end_group();
      });
    });
  }

  ISOLOGIT_DEVICE static void copy_parts(Block& block, Stage& to, const PartProduct& p, int row0, int group,
                                         int thread) {
    ISOLOGIT_UNROLL
    for (int j = 0; j < kPartCopies; ++j) {
      const int place = thread + j * Block::kThreads;
      const int row = place / 16;
      const int piece = place % 8;
      block.copy(&to.parts[place / 8 % 2][row][piece ^ 4 * (row & 1)],
                 p.parts + (row0 + row) * p.parts_stride + group * kPartGroup + place % 16 * 4);
    }
    if (thread < kRows / 2) block.copy(&to.units[2 * thread], p.units + group * p.unit_stride + row0 + 2 * thread);
  }

  ISOLOGIT_DEVICE static void copy_other(Block& block, Shared& shared, const PartProduct& p, int col0, int group,
                                         int thread) {
    ISOLOGIT_UNROLL
    for (int j = 0; j < kOtherCopies; ++j) {
      const int place = thread + j * Block::kThreads;
      const int d = place / kPieces;
      const int col = col0 + place % kPieces * 8;
      const bool there = shared.groups[group].is_plain(d) && col < p.cols;
      const auto* row = static_cast<const std::uint16_t*>(p.other) +
                        (there ? static_cast<std::int64_t>(group) * kPartGroup + d : 0) * p.other_stride;
      Sixteen* to = &shared.stage[group % kStages].other[d][turned(place % kPieces, d)];
      if (p.aligned) {
        block.copy_or_zero(to, row + (there ? col : 0), there);
      } else {
        *to = load_chunk<Bf16, false>(row, col, there ? p.cols : 0).part[0];
      }
    }
  }

  // Of a group and kTogether tiles of columns: the chains, and their end in the sums. Within 32 of the depth a lane's
  // eight parts are places 2t, 2t + 1, 2t + 8 and 2t + 9 of two multiplications, and so are the rows of the other
  // operand that it is given.
  template <class State>
  ISOLOGIT_DEVICE static void multiply(Block& block, const Stage& from, State& state, int first, int warp) {
    struct A {
      std::uint32_t a[MT][2][4];
    };
    struct B {
      std::uint32_t b[kPartGroup / kStep][kTogether][4];
    };
    struct C {
      float c[MT][kTogether][4];
    };
    typename Block::template PerLane<B> b;
    ISOLOGIT_UNROLL
    for (int step = 0; step < kPartGroup / kStep; ++step) {
      ISOLOGIT_UNROLL
      for (int n = 0; n < kTogether; ++n) {
        block.load_turned([&](int lane) -> std::uint32_t* { return b(lane).b[step][n]; },
                          [&](int lane) {
                            const int d = kStep * step + 8 * (lane >> 1 & 3) + 2 * (lane >> 3) + (lane & 1);
                            return &from.other[d][turned(NT * (warp % WN) + first + n, d)];
                          });
      }
    }
    typename Block::template PerLane<C> chain;
    block.each_lane([&](int lane) { chain(lane) = {}; });
    ISOLOGIT_UNROLL
    for (int part = 1; part >= 0; --part) {
      ISOLOGIT_UNROLL
      for (int step = 0; step < kPartGroup / kStep; ++step) {
        typename Block::template PerLane<A> a;
        block.each_lane([&](int lane) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < MT * 2; ++i) {
            const int row = 16 * MT * (warp / WN) + 8 * i + (lane >> 2);
            const Sixteen own = from.parts[part][row][(4 * step + (lane & 3)) ^ 4 * (row & 1)];
            ISOLOGIT_UNROLL
            for (int j = 0; j < 4; ++j) a(lane).a[i / 2][j / 2][2 * (j % 2) + i % 2] = own.word[j];
          }
        });
        ISOLOGIT_UNROLL
        for (int half = 0; half < 2; ++half) {
          ISOLOGIT_UNROLL
          for (int n = 0; n < kTogether; ++n) {
            ISOLOGIT_UNROLL
            for (int m = 0; m < MT; ++m) {
              block.template mma_f32<Bf16>(
                  [&](int lane) -> float* { return chain(lane).c[m][n]; },
                  [&](int lane) -> const std::uint32_t* { return a(lane).a[m][half]; },
                  [&](int lane) -> const std::uint32_t* { return b(lane).b[step][n] + 2 * half; });
            }
          }
        }
      }
    }
    block.each_lane([&](int lane) {
      ISOLOGIT_UNROLL
      for (int m = 0; m < MT; ++m) {
        ISOLOGIT_UNROLL
        for (int n = 0; n < kTogether; ++n) {
          ISOLOGIT_UNROLL
          for (int i = 0; i < 4; ++i) {
            double& sum = state(warp, lane).sum[m][first + n][i];
            const double unit = from.units[16 * (MT * (warp / WN) + m) + 8 * (i >> 1) + (lane >> 2)];
            sum = fused(static_cast<double>(chain(lane).c[m][n][i]), unit, sum);
          }
        }
      }
    });
  }

  // The products of a group's odd rows.
  template <class State>
  ISOLOGIT_DEVICE static void add_odd(Block& block, const GroupRows& rows, State& state, const PartProduct& p, int row0,
                                      int col0, int first) {
    std::uint64_t odd = rows.all_odd();
    ISOLOGIT_ROLLED
    for (int d = 0; odd != 0; ++d, odd >>= 1) {
      if ((odd & 1U) == 0) continue;
      const auto* other = static_cast<const std::uint16_t*>(p.other) + (first + d) * p.other_stride;
      block.each_warp([&](int warp) {
        block.each_lane([&](int lane) {
          each(state(warp, lane), row_of(row0, warp), col_of(col0, warp), lane, [&](double& sum, int row, int col) {
            if (row >= p.rows || col >= p.cols) return;
            const std::int64_t at = BY_ROWS ? row * p.words_stride + first + d : (first + d) * p.words_stride + row;
            sum = fused(from_words(p.words[at], 0), static_cast<double>(Bf16::value(other[col])), sum);
          });
        });
      });
    }
  }
};

}  // namespace isologit::detail::cuda
