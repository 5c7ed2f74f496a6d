// How the work of attention is cut, and its kernels in turn.
#pragma once

#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/attention_merge.cuh"
#include "cuda/attention_settle.cuh"

namespace isologit::detail::cuda {

// Blocks that fill a device, three for each processor of an H100; a split has at least so many keys.
inline constexpr std::int64_t kManyBlocks = 396;
inline constexpr std::int64_t kFewKeys = 128;

struct AttentionPlan {
  std::int64_t blocks;  // tiles of rows and kv heads
  int splits;
  std::int64_t bytes;  // of partials
};

inline bool has_long_heads(const AttentionRequest& r) { return r.dim > 128 || r.values.dim > 128; }

inline AttentionPlan attention_plan(const AttentionRequest& r) {
  const std::int64_t rows = has_long_heads(r) ? 16 : 32;
  AttentionPlan plan;
  plan.blocks = (r.tokens * r.group / rows + r.sequences) * r.kv_heads;
  std::int64_t keys = r.key_tokens;
  if (r.block_table != nullptr) keys = std::min(keys, r.blocks_per_sequence * r.block_size);
  if (r.window > 0) keys = std::min(keys, r.window + rows);
  const std::int64_t wanted = std::min(kManyBlocks / std::max<std::int64_t>(plan.blocks, 1), keys / kFewKeys);
  plan.splits = static_cast<int>(std::max<std::int64_t>(wanted, 1));
  const std::size_t size = has_long_heads(r) ? sizeof(Partial<16, 256>) : sizeof(Partial<32, 128>);
  plan.bytes = plan.splits == 1 ? 0 : plan.blocks * plan.splits * static_cast<std::int64_t>(size);
  return plan;
}

template <class E, int DIM, class Launcher>
void launch_attend(Launcher& launcher, const AttentionRequest& r, int blocks) {
  using Four = typename Launcher::template Block<4>;
  using Kernel = Attend<Four, E, DIM>;
  launcher.template launch<Kernel>(blocks, r.splits, r);
  if (r.splits > 1) launcher.template launch<Merge<Four, Kernel::kRows, DIM>>(blocks, 1, r);
}

// With r.splits as planned.
template <class Launcher>
void launch_attention(Launcher& launcher, const AttentionRequest& r) {
  const auto blocks = static_cast<int>(attention_plan(r).blocks);
  if (r.q.type == kBf16) {
    has_long_heads(r) ? launch_attend<Bf16, 256>(launcher, r, blocks) : launch_attend<Bf16, 128>(launcher, r, blocks);
  } else {
    has_long_heads(r) ? launch_attend<F16, 256>(launcher, r, blocks) : launch_attend<F16, 128>(launcher, r, blocks);
  }
  using Eight = typename Launcher::template Block<8>;
  launcher.template launch<SettleAttention<Eight>>(static_cast<int>(r.tokens * r.kv_heads), 1, r);
}

}  // namespace isologit::detail::cuda
