// What attention is asked: where queries, keys and values lie, and which keys a query sees. How many keys a sequence
// has is in memory of the device, so the host cuts the work by what it knows, the number of tokens and sequences.
//
// The queries of a sequence and the heads of one kv head are rows, row r head r % group of query r / group. A tile is
// kRows of them. Sequence s has the tiles from floor(first row / kRows) + s on, which leaves room for the last, partial
// one of each sequence before; some numbers are no tile.
#pragma once

#include "cuda/activations.cuh"

namespace isologit::detail::cuda {

inline constexpr int kMostHead = 256;  // elements of a key or value
inline constexpr std::int64_t kNowhere = -0x7FFFFFFFFFFFFFFF - 1;

struct KeyRows {
  const void* data;
  std::int64_t token_stride, head_stride, block_stride;  // in elements
  int dim;
};

struct AttentionRequest {
  Activations q;
  std::int64_t tokens;
  int dim, kv_heads, group;
  KeyRows keys, values;
  std::int64_t key_tokens;  // or slots
  int sequences;
  const std::int64_t* query_starts;
  const std::int64_t* key_counts;
  const std::int64_t* first_keys;   // or null, with
  const std::int32_t* block_table;  // blocks
  std::int64_t blocks_per_sequence;
  int block_size;
  bool copies;  // keys and values by 16 bytes
  float scale, softcap;
  bool causal;
  std::int64_t window;  // up to 2^32
  const float* sinks;   // or null
  Results3 y;
  Status* status;
  int splits;  // of the keys of a tile
  void* partials;
};

struct Sequence {
  std::int64_t first_query, queries, keys;
  bool is_valid;
};
ISOLOGIT_DEVICE Sequence sequence_of(const AttentionRequest& p, int s) {
  const std::int64_t first = p.query_starts[s], end = p.query_starts[s + 1], keys = p.key_counts[s];
  bool is_valid = 0 <= first && first <= end && end <= p.tokens && keys >= 0;
  is_valid = is_valid && (s > 0 || first == 0) && (s + 1 < p.sequences || end == p.tokens);
  if (p.block_table != nullptr) {
    is_valid = is_valid && keys <= p.blocks_per_sequence * p.block_size;
  } else {
    const std::int64_t at = p.first_keys[s];
    is_valid = is_valid && at >= 0 && at <= p.key_tokens && keys <= p.key_tokens - at;
  }
  return {first, end - first, keys, is_valid};
}

struct Seen {
  std::int64_t begin, end;
};
ISOLOGIT_DEVICE Seen seen_by(const AttentionRequest& p, const Sequence& sequence, std::int64_t query) {
  const std::int64_t position = sequence.keys - sequence.queries + query;  // of the key that is its own
  const std::int64_t own_end = position + 1 > 0 ? position + 1 : 0;
  const std::int64_t end = p.causal ? own_end : sequence.keys;
  const std::int64_t first = p.window > 0 && position - p.window + 1 > 0 ? position - p.window + 1 : 0;
  return {first < end ? first : end, end};
}

// Where key or value j of a sequence begins, or kNowhere if its block is none.
ISOLOGIT_DEVICE std::int64_t place_of(const AttentionRequest& p, const KeyRows& x, int s, std::int64_t j, int kv_head) {
  const std::int64_t in_token = kv_head * x.head_stride;
  if (p.block_table == nullptr) return (p.first_keys[s] + j) * x.token_stride + in_token;
  const int slot = static_cast<int>(j);
  const std::int64_t block = p.block_table[s * p.blocks_per_sequence + slot / p.block_size];
  if (block < 0 || block >= p.key_tokens / p.block_size) return kNowhere;
  return block * x.block_stride + slot % p.block_size * x.token_stride + in_token;
}

ISOLOGIT_DEVICE float sink_of(const AttentionRequest& p, int head) {
  return p.sinks != nullptr ? p.sinks[head] : minus_infinity();
}

// A tile of rows of one sequence and kv head.
struct RowTile {
  Sequence sequence;
  int s, kv_head;
  std::int64_t first;  // row of the sequence
  int rows;            // 0: no tile

  // The row of q and y.
  ISOLOGIT_DEVICE int row_of(const AttentionRequest& p, int r) const {
    const std::int64_t row = first + r;
    const std::int64_t token = sequence.first_query + row / p.group;
    return static_cast<int>(token * p.q.rows.heads + head_of(p, r));
  }
  ISOLOGIT_DEVICE int head_of(const AttentionRequest& p, int r) const {
    return kv_head * p.group + static_cast<int>((first + r) % p.group);
  }
  ISOLOGIT_DEVICE Seen seen_by(const AttentionRequest& p, int r) const {
    return cuda::seen_by(p, sequence, (first + r) / p.group);
  }
};

template <int ROWS>
ISOLOGIT_DEVICE std::int64_t first_tile(const AttentionRequest& p, int s) {
  return p.query_starts[s] * p.group / ROWS + s;
}
template <int ROWS>
ISOLOGIT_DEVICE RowTile row_tile(const AttentionRequest& p, int index) {
  RowTile tile;
  tile.kv_head = index % p.kv_heads;
  const int number = index / p.kv_heads;
  int s = 0;
  for (int above = p.sequences; above - s > 1;) {
    const int middle = s + (above - s) / 2;
    if (first_tile<ROWS>(p, middle) <= number) {
      s = middle;
    } else {
      above = middle;
    }
  }
  tile.s = s;
  tile.sequence = sequence_of(p, s);
  tile.first = (number - first_tile<ROWS>(p, s)) * ROWS;
  const std::int64_t left = tile.sequence.queries * p.group - tile.first;
  const bool is_one = tile.sequence.is_valid && tile.first >= 0 && left > 0;
  tile.rows = !is_one ? 0 : left < ROWS ? static_cast<int>(left) : ROWS;
  return tile;
}

// Counts the sequences whose numbers are out of range; of these nothing is made.
template <class Block>
ISOLOGIT_DEVICE void check_sequences(Block& block, const AttentionRequest& p) {
  block.each_warp([&](int warp) {
    block.each_lane([&](int lane) {
      ISOLOGIT_ROLLED
      for (int s = 32 * warp + lane; s < p.sequences; s += Block::kThreads) {
        if (!sequence_of(p, s).is_valid) block.count(p.status->wrong);
      }
    });
  });
}

}  // namespace isologit::detail::cuda
