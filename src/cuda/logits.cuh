// Which kernels make logits, in which order, and what memory they share. One source for the device and for the host:
// Launcher::Block<WARPS> is the block, launcher.template launch<Kernel>(x, y, args) runs x by y of them.
#pragma once

#include "cuda/prepare.cuh"
#include "cuda/settle.cuh"
#include "cuda/split.cuh"
#include "cuda/staged.cuh"

namespace isologit::detail::cuda {

struct Operand {
  const void* data;
  std::int64_t stride;  // in elements
  int type;
};

struct LogitsRequest {
  Operand hidden, weight;
  const void* bias;  // or null
  int bias_type;
  std::int64_t rows;
  int vocab, size;
  float* logits;
  std::int64_t logits_stride;
  void* workspace;
};

// So many hidden rows are prepared at a time. They fit the second-level cache of the larger cards (16 MiB at a depth of
// 4096), and the weight is read once for all of them.
inline constexpr std::int64_t kRowsAtOnce = 1024;
inline constexpr int kSplitRows = 32;       // up to so many the depth is split over warps, which wants whole chunks
inline constexpr int kMostDepth = 1 << 20;  // the bounds of certificate.cuh hold up to here

struct Workspace {
  std::int64_t rows, depth, plane, words_bytes, bytes;
};
inline Workspace workspace_of(std::int64_t rows, std::int64_t size, int hidden_type) {
  const auto up = [](std::int64_t x, std::int64_t multiple) { return (x + multiple - 1) / multiple * multiple; };
  Workspace w;
  w.rows = up(rows < kRowsAtOnce ? rows : kRowsAtOnce, kRowGroup);
  w.depth = up(size, kDepthGroup);
  w.plane = w.rows * w.depth;
  w.words_bytes = w.plane * 4 * (hidden_type == kF32 ? 2 : 1);
  w.bytes = w.words_bytes + w.rows * static_cast<std::int64_t>(sizeof(RowFacts));
  return w;
}

// Whether every chunk of eight elements can be loaded in 16-byte pieces.
template <class E>
bool is_aligned(const Operand& weight, int size) {
  const auto address = reinterpret_cast<std::uintptr_t>(weight.data);
  const auto stride = weight.stride * static_cast<std::int64_t>(sizeof(typename E::Bits));
  return address % 16 == 0 && stride % 16 == 0 && size % 8 == 0;
}

template <class Kernel, class Launcher>
void launch_tiles(Launcher& launcher, const Product& p, bool rows_first) {
  const int tiles = (p.vocab + Kernel::kWeightRows - 1) / Kernel::kWeightRows;
  const int row_blocks = (p.rows + Kernel::kHiddenRows - 1) / Kernel::kHiddenRows;
  if (rows_first) {
    launcher.template launch<Kernel>(row_blocks, tiles, p);
  } else {
    launcher.template launch<Kernel>(tiles, row_blocks, p);
  }
}

// The shapes are those that were best in trials on an H200 (sm_90).
template <class Launcher, class E, bool LOW>
void launch_aligned(Launcher& launcher, const Product& p) {
  using Four = typename Launcher::template Block<4>;
  // Where elements take more registers, tiles of fewer weight rows.
  constexpr bool kWide = sizeof(typename E::Bits) == 4;
  if (p.rows <= 8) {
    launch_tiles<Split<Four, E, LOW, kWide ? 2 : 4, 1>>(launcher, p, false);
  } else if (p.rows <= 16) {
    launch_tiles<Split<Four, E, LOW, 2, 2>>(launcher, p, false);
  } else if (p.rows <= kSplitRows) {
    launch_tiles<Split<Four, E, LOW, kWide || LOW ? 1 : 2, 4>>(launcher, p, false);
  } else {
    launch_tiles<Staged<Four, E, LOW, true>>(launcher, p, true);
  }
}

template <class Launcher, class E, bool LOW>
void launch_products(Launcher& launcher, const Product& p, bool aligned) {
  using Four = typename Launcher::template Block<4>;
  using Eight = typename Launcher::template Block<8>;
  if (aligned) {
    launch_aligned<Launcher, E, LOW>(launcher, p);
  } else {
    launch_tiles<Staged<Four, E, LOW, false>>(launcher, p, true);
  }
  const auto settle = [&]<bool ALIGNED>() {
    using Kernel = Settle<Eight, E, LOW, ALIGNED>;
    launcher.template launch<Kernel>((p.vocab + Kernel::kPerBlock - 1) / Kernel::kPerBlock, p.rows, p);
  };
  if (aligned) {
    settle.template operator()<true>();
  } else {
    settle.template operator()<false>();
  }
}

template <class Launcher, class E>
void launch_logits(Launcher& launcher, const LogitsRequest& r) {
  const Workspace space = workspace_of(r.rows, r.size, r.hidden.type);
  auto* words = static_cast<std::uint32_t*>(r.workspace);
  auto* facts = reinterpret_cast<RowFacts*>(static_cast<char*>(r.workspace) + space.words_bytes);
  const std::int64_t element = r.hidden.type == kF32 ? 4 : 2;
  const bool aligned = is_aligned<E>(r.weight, r.size);
  for (std::int64_t first = 0; first < r.rows; first += kRowsAtOnce) {
    const std::int64_t left = r.rows - first;
    const int rows = static_cast<int>(left < kRowsAtOnce ? left : kRowsAtOnce);
    const int depth = static_cast<int>(space.depth);
    const bool by_halves = aligned && rows <= kSplitRows;
    using Eight = typename Launcher::template Block<8>;
    const void* hidden = static_cast<const char*>(r.hidden.data) + first * r.hidden.stride * element;
    launcher.template launch<Prepare<Eight>>(
        (rows + kRowGroup - 1) / kRowGroup * kRowGroup, 1,
        Preparation{hidden, r.hidden.stride, r.hidden.type, rows, r.size, depth, by_halves, words, space.plane, facts});
    float* logits = r.logits + first * r.logits_stride;
    const Product p{r.weight.data, r.weight.stride, r.bias,    r.bias_type, rows,  r.vocab, r.size,
                    words,         depth,           by_halves, space.plane, facts, logits,  r.logits_stride};
    if (r.hidden.type == kF32) {
      launch_products<Launcher, E, true>(launcher, p, aligned);
    } else {
      launch_products<Launcher, E, false>(launcher, p, aligned);
    }
  }
}

}  // namespace isologit::detail::cuda
