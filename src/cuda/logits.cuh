// Which kernels make logits, in which order, and what memory they share. One source for the device and for the host:
// Launcher::Block<WARPS> is the block, launcher.template launch<Kernel>(x, y, args) runs x by y of them.
#pragma once

#include "cuda/digit_products.cuh"
#include "cuda/digit_wgmma.cuh"
#include "cuda/fast.cuh"
#include "cuda/fast_wgmma.cuh"
#include "cuda/prepare.cuh"
#include "cuda/settle.cuh"
#include "cuda/split.cuh"
#include "cuda/staged.cuh"
#include "cuda/transforms.cuh"

namespace isologit::detail::cuda {

struct Operand {
  const void* data;
  std::int64_t stride;  // in elements
  int type;
};

// What all requests of a head have.
struct HeadOperands {
  Operand hidden, weight;
  const void* bias;  // or null
  int bias_type;
  std::int64_t rows;
  int vocab, size;
  bool wgmma = false;  // products of many rows by wgmma, of devices that have it
};

struct LogitsRequest : HeadOperands {
  void* logits;
  int logits_type;
  std::int64_t logits_stride;  // in elements
  bool fast;                   // the arithmetic of fast.cuh; hidden and weight are of one type of 16 bits
  void* workspace;
  Transforms transforms = {};  // made of logits in f32, after the products (transform_rows.cuh)
  Status* status = nullptr;
};

// So many hidden rows are prepared at a time. They fit the second-level cache of the larger cards (16 MiB at a depth of
// 4096), and the weight is read once for all of them.
inline constexpr std::int64_t kRowsAtOnce = 1024;
inline constexpr int kSplitRows = 32;  // up to so many the depth is split over warps, which wants whole chunks
inline constexpr int kFewRows = 16;    // up to so many f64 products are faster than those of digits
// From so many on, tiles of the greatest shapes are enough for all processors of a device.
inline constexpr int kManyWeightRows = 16384;
inline constexpr int kMostDepth = 1 << 20;  // the bounds of certificate.cuh hold up to here

struct Workspace {
  std::int64_t rows, depth, plane, facts_at, bytes;
  std::int64_t digits_at, digit_facts_at;  // of hidden rows of bf16
};
inline std::int64_t round_up(std::int64_t x, std::int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }
inline Workspace workspace_of(std::int64_t rows, std::int64_t size, int hidden_type,
                              std::int64_t most_rows = kRowsAtOnce) {
  Workspace w;
  w.rows = round_up(rows < most_rows ? rows : most_rows, kRowGroup);
  w.depth = round_up(size, kDepthGroup);
  w.plane = w.rows * w.depth;
  w.facts_at = w.plane * 4 * (hidden_type == kF32 ? 2 : 1);
  w.bytes = w.facts_at + w.rows * static_cast<std::int64_t>(sizeof(RowFacts));
  if (hidden_type == kBf16 && rows > kFewRows && w.depth <= kMostDigitDepth) {
    w.digits_at = w.bytes;
    w.digit_facts_at = w.digits_at + kDigits * w.plane;
    w.bytes = w.digit_facts_at + w.rows * static_cast<std::int64_t>(sizeof(DigitFacts));
  }
  return w;
}

// Whether every chunk of eight elements can be loaded in 16-byte pieces.
inline bool is_aligned(const Operand& weight, int size) {
  const auto address = reinterpret_cast<std::uintptr_t>(weight.data);
  return address % 16 == 0 && weight.stride * element_size(weight.type) % 16 == 0 && size % 8 == 0;
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

// For results in bf16 the leading products come first; blocks of hidden rows for which these are not enough leave
// theirs to all nine.
template <class Launcher, int NT>
void launch_digits_of(Launcher& launcher, const Product& p) {
  using Four = typename Launcher::template Block<4>;
  if (p.wgmma) {
    if (p.leading) launch_tiles<DigitsWgmma<Four, NT, true>>(launcher, p, true);
    launch_tiles<DigitsWgmma<Four, NT, false>>(launcher, p, true);
  } else {
    if (p.leading) launch_tiles<Digits<Four, NT, true>>(launcher, p, true);
    launch_tiles<Digits<Four, NT, false>>(launcher, p, true);
  }
}

// Of bf16, and then by f64 products what is left open in whole tiles.
template <class Launcher>
void launch_digits(Launcher& launcher, Product p) {
  using Four = typename Launcher::template Block<4>;
  if (p.vocab >= Digits<Four, 8, false>::kWeightRows) {
    if (p.rows <= 32 || (p.rows <= 64 && p.vocab < kManyWeightRows)) {
      launch_digits_of<Launcher, 4>(launcher, p);
    } else {
      launch_digits_of<Launcher, 8>(launcher, p);
    }
    p.repair = true;
  }
  launch_tiles<Staged<Four, Bf16, false, true>>(launcher, p, true);
}

// The shapes are those that were best in trials on an H200 (sm_90).
template <class Launcher, class E, bool LOW>
void launch_aligned(Launcher& launcher, const Product& p) {
  using Four = typename Launcher::template Block<4>;
  using Eight = typename Launcher::template Block<8>;
  // Where elements take more registers, tiles of fewer weight rows.
  constexpr bool kWide = sizeof(typename E::Bits) == 4;
  if constexpr (std::is_same_v<E, Bf16> && !LOW) {
    if (p.hidden_digits.digits != nullptr) {
      launch_digits(launcher, p);
      return;
    }
  }
  if (p.rows <= 8 && p.vocab < kManyWeightRows) {
    launch_tiles<Split<Eight, E, LOW, 1, 1>>(launcher, p, false);
  } else if (p.rows <= 8) {
    launch_tiles<Split<Four, E, LOW, kWide ? 2 : 4, 1>>(launcher, p, false);
  } else if (p.rows <= 16 && p.vocab < kManyWeightRows) {
    launch_tiles<Split<Eight, E, LOW, 1, 2>>(launcher, p, false);
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

// The logits of fast arithmetic.
template <class Launcher, class E>
void launch_fast(Launcher& launcher, const Product& p, bool aligned) {
  using Four = typename Launcher::template Block<4>;
  using Eight = typename Launcher::template Block<8>;
  if (p.wgmma) {
    launch_tiles<FastWgmma<Eight, E>>(launcher, p, true);
  } else if (!aligned) {
    launch_tiles<Fast<Four, E, false, 8, 1>>(launcher, p, true);
  } else if (p.rows <= 8) {
    launch_tiles<Fast<Four, E, true, 1, 1>>(launcher, p, true);
  } else if (p.rows <= 16) {
    launch_tiles<Fast<Four, E, true, 2, 1>>(launcher, p, true);
  } else if (p.rows <= 32) {
    launch_tiles<Fast<Four, E, true, 4, 1>>(launcher, p, true);
  } else if (p.rows <= 64) {
    launch_tiles<Fast<Four, E, true, 8, 1>>(launcher, p, true);
  } else {
    launch_tiles<Fast<Eight, E, true, 8, 2>>(launcher, p, true);
  }
}

// Whether digits make the logits: of more than a few rows of bf16. Few rows of a weight that has few are split better.
inline bool takes_digits(const HeadOperands& r, int rows, bool fast) {
  return !fast && r.hidden.type == kBf16 && r.weight.type == kBf16 &&
         rows > (r.vocab < kManyWeightRows ? kSplitRows : kFewRows) && r.size <= kMostDigitDepth &&
         is_aligned(r.weight, r.size);
}

// Hidden rows made ready: `first` and as many as `rows` of them, in a workspace of this shape. to_bf16: for results of
// that type.
template <class Launcher>
Product prepared(Launcher& launcher, const HeadOperands& r, std::int64_t first, int rows, void* workspace,
                 const Workspace& space, bool fast, bool to_bf16 = false) {
  using Eight = typename Launcher::template Block<8>;
  auto* memory = static_cast<char*>(workspace);
  auto* words = static_cast<std::uint32_t*>(workspace);
  auto* facts = reinterpret_cast<RowFacts*>(memory + space.facts_at);
  const int depth = static_cast<int>(space.depth);
  const int all_rows = (rows + kRowGroup - 1) / kRowGroup * kRowGroup;
  const Operand& hidden = r.hidden;
  const int size = r.size;
  const bool by_digits = takes_digits(r, rows, fast);
  const bool packed = !by_digits && rows <= kSplitRows && is_aligned(r.weight, size) && hidden.type != kF32;
  const void* data = static_cast<const char*>(hidden.data) + first * hidden.stride * element_size(hidden.type);
  const bool wgmma = r.wgmma && (by_digits || (fast && rows > 64 && is_aligned(r.weight, size)));
  if (fast) {
    launcher.template launch<Pack<Eight>>(all_rows, 1, Packing{data, hidden.stride, rows, size, depth, words});
  } else {
    launcher.template launch<Prepare<Eight>>(
        all_rows, 1,
        Preparation{data, hidden.stride, hidden.type, rows, size, depth, packed, words, space.plane, facts});
  }
  Product p = {};
  if (by_digits) {
    p.hidden_digits = {reinterpret_cast<std::uint8_t*>(memory + space.digits_at),
                       reinterpret_cast<DigitFacts*>(memory + space.digit_facts_at)};
    p.leading = to_bf16;
    const int spare = !p.leading ? 0 : size < 256 * kSpare ? size / 256 : kSpare;
    launcher.template launch<PrepareDigits<Eight>>(
        all_rows, 1,
        DigitPreparation{data, hidden.stride, rows, size, depth, spare, wgmma, facts, p.hidden_digits.digits,
                         p.hidden_digits.facts});
  }
  p.weight = r.weight.data;
  p.weight_stride = r.weight.stride;
  p.rows = rows;
  p.size = size;
  p.words = words;
  p.depth = depth;
  p.hidden_type = hidden.type;
  p.packed = packed;
  p.plane = space.plane;
  p.fast = fast;
  p.wgmma = wgmma;
  p.facts = facts;
  p.logits_type = kF32;
  return p;
}

// The logits of prepared rows of this type of hidden: settled, or fast.
template <class Launcher, class E>
void launch_prepared(Launcher& launcher, const Product& p, int hidden_type) {
  const bool aligned = is_aligned({p.weight, p.weight_stride, sizeof(typename E::Bits) == 4 ? kF32 : kBf16}, p.size);
  if constexpr (sizeof(typename E::Bits) == 2) {
    if (p.fast) {
      launch_fast<Launcher, E>(launcher, p, aligned);
      return;
    }
  }
  if (hidden_type == kF32) {
    launch_products<Launcher, E, true>(launcher, p, aligned);
  } else {
    launch_products<Launcher, E, false>(launcher, p, aligned);
  }
}

template <class Launcher, class E>
void launch_logits(Launcher& launcher, const LogitsRequest& r) {
  const Workspace space = workspace_of(r.rows, r.size, r.hidden.type);
  for (std::int64_t first = 0; first < r.rows; first += kRowsAtOnce) {
    const int rows = static_cast<int>(r.rows - first < kRowsAtOnce ? r.rows - first : kRowsAtOnce);
    Product p = prepared(launcher, r, first, rows, r.workspace, space, r.fast, r.logits_type == kBf16);
    p.bias = r.bias;
    p.bias_type = r.bias_type;
    p.vocab = r.vocab;
    p.logits = static_cast<char*>(r.logits) + first * r.logits_stride * element_size(r.logits_type);
    p.logits_type = r.logits_type;
    p.logits_stride = r.logits_stride;
    launch_prepared<Launcher, E>(launcher, p, r.hidden.type);
  }
}

}  // namespace isologit::detail::cuda
