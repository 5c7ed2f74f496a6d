// Logits after transforms, where they are wanted themselves: each made in place of its product.
// Predicted: reading and writing [N, V] once, 0.4 ms for 1024 rows of V=151936; with a softcap some 250 instructions in
// f64 a logit, 2.5 ms. Measured: not yet.
#pragma once

#include "cuda/logits.cuh"

namespace isologit::detail::cuda {

struct RowTransforms {
  float* logits;  // [rows, vocab]
  std::int64_t stride;
  int vocab;
  Transforms transforms;
  std::int64_t first_row;  // of those whose temperatures these are
  Status* status;          // or null, where nothing can be left open: without a softcap
};

template <class BlockType>
struct TransformRows {
  using Block = BlockType;
  using Args = RowTransforms;
  static constexpr int kBlocksPerProcessor = 1;
  static constexpr int kPerThread = 8;
  static constexpr int kPerBlock = Block::kThreads * kPerThread;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const RowTransforms& p, int row, int part) {
    float* const logits = p.logits + row * p.stride;
    const float temperature = p.transforms.temperature_of(p.first_row + row);
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        ISOLOGIT_ROLLED
        for (int i = 0; i < kPerThread; ++i) {
          const int v = part * kPerBlock + i * Block::kThreads + 32 * warp + lane;
          if (v >= p.vocab) continue;
          const float z = transformed(p.transforms, logits[v], temperature);
          if (is_open(z)) block.count(p.status->open);
          logits[v] = is_open(z) ? quiet_nan() : z;
        }
      });
    });
  }
};

inline constexpr std::int64_t kMostGridRows = std::int64_t{1} << 30;

template <class Launcher>
void launch_transforms(Launcher& launcher, const LogitsRequest& r) {
  using Kernel = TransformRows<typename Launcher::template Block<8>>;
  for (std::int64_t first = 0; r.transforms.are_any() && first < r.rows; first += kMostGridRows) {
    const int rows = static_cast<int>(r.rows - first < kMostGridRows ? r.rows - first : kMostGridRows);
    launcher.template launch<Kernel>(rows, (r.vocab + Kernel::kPerBlock - 1) / Kernel::kPerBlock,
                                     RowTransforms{static_cast<float*>(r.logits) + first * r.logits_stride,
                                                   r.logits_stride, r.vocab, r.transforms, first, r.status});
  }
}

}  // namespace isologit::detail::cuda
