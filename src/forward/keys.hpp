// Where keys and values lie, and which of them a query sees.
#pragma once

#include <algorithm>
#include <cstdint>

#include "forward/rows.hpp"

namespace isologit::detail::forward {

using isologit::forward::AttentionRequest;
using isologit::forward::KeyValues;

class Keys {
 public:
  Keys(const KeyValues& kv, std::int64_t sequence) : kv_(kv), sequence_(sequence) {}

  const void* key(std::int64_t j, std::int64_t head) const { return at(kv_.keys, kv_.key_block_stride, j, head); }
  const void* value(std::int64_t j, std::int64_t head) const { return at(kv_.values, kv_.value_block_stride, j, head); }

 private:
  const void* at(const TensorView& x, std::int64_t block_stride, std::int64_t j, std::int64_t head) const {
    if (kv_.block_table.empty()) return row_of(x, kv_.first_keys[static_cast<std::size_t>(sequence_)] + j, head);
    const std::int64_t place = sequence_ * kv_.blocks_per_sequence + j / kv_.block_size;
    const std::int64_t block = kv_.block_table[static_cast<std::size_t>(place)];
    return static_cast<const char*>(row_of(x, j % kv_.block_size, head)) +
           block * block_stride * static_cast<std::int64_t>(dtype_size(x.dtype));
  }

  const KeyValues& kv_;
  std::int64_t sequence_;
};

// The keys [begin, end) that a query sees.
struct Seen {
  std::int64_t begin;
  std::int64_t end;
};
inline Seen seen_by(const AttentionRequest& request, std::int64_t sequence, std::int64_t token) {
  const auto at = static_cast<std::size_t>(sequence);
  const std::int64_t keys = request.key_counts[at];
  const std::int64_t position = keys - (request.query_starts[at + 1] - token);  // of the key that is its own
  const std::int64_t end = request.causal ? std::max<std::int64_t>(position + 1, 0) : keys;
  const std::int64_t begin = request.window > 0 ? std::max<std::int64_t>(position - request.window + 1, 0) : 0;
  return {std::min(begin, end), end};
}

}  // namespace isologit::detail::forward
