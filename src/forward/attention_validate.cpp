#include <cmath>
#include <string>

#include "base/text.hpp"
#include "forward/validate.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using isologit::forward::AttentionRequest;
using isologit::forward::KeyValues;
using tiles::invalid;

Result<void> validate_shapes(const AttentionRequest& request) {
  const TensorView& q = request.q;
  const TensorView& k = request.kv.keys;
  const TensorView& v = request.kv.values;
  if (auto checked = validate_tensor("q", q); !checked) return checked;
  if (auto checked = validate_tensor("keys", k); !checked) return checked;
  if (auto checked = validate_tensor("values", v); !checked) return checked;
  if (k.dim != q.dim) return invalid(base::concat("keys: heads of ", k.dim, " elements; expected q's ", q.dim));
  if (k.tokens != v.tokens || k.heads != v.heads) {
    return invalid(base::concat("values: ", v.tokens, " tokens of ", v.heads, " heads; expected those of keys, ",
                                k.tokens, " and ", k.heads));
  }
  if (q.heads % k.heads != 0) {
    return invalid(base::concat("q: ", q.heads, " heads; expected a multiple of the ", k.heads, " of keys"));
  }
  if (k.dtype != q.dtype || v.dtype != q.dtype) {
    return invalid(base::concat("keys, values: ", dtype_name(k.dtype), ", ", dtype_name(v.dtype),
                                "; expected the type of q, ", dtype_name(q.dtype)));
  }
  return {};
}

Result<void> validate_sequences(const AttentionRequest& request) {
  const auto sequences = static_cast<std::int64_t>(request.key_counts.size());
  const auto& starts = request.query_starts;
  if (static_cast<std::int64_t>(starts.size()) != sequences + 1 || starts.front() != 0 ||
      starts.back() != request.q.tokens) {
    return invalid(base::concat("query_starts: ", starts.size(), " numbers for ", sequences, " sequences and ",
                                request.q.tokens,
                                " tokens; expected one a sequence and one more, from 0 to the tokens"));
  }
  for (std::int64_t s = 0; s < sequences; ++s) {
    const auto at = static_cast<std::size_t>(s);
    if (starts[at + 1] < starts[at]) {
      return invalid(base::concat("query_starts[", s + 1, "]: ", starts[at + 1], " after ", starts[at],
                                  "; expected ascending numbers"));
    }
    if (request.key_counts[at] < 0) {
      return invalid(base::concat("key_counts[", s, "]: ", request.key_counts[at], "; expected at least 0"));
    }
  }
  return {};
}

Result<void> validate_contiguous(const KeyValues& kv, std::span<const std::int64_t> key_counts) {
  if (kv.first_keys.size() != key_counts.size()) {
    return invalid(base::concat("first_keys: ", kv.first_keys.size(), " for ", key_counts.size(), " sequences"));
  }
  for (std::size_t s = 0; s < key_counts.size(); ++s) {
    const std::int64_t first = kv.first_keys[s];
    if (first < 0 || first > kv.keys.tokens || key_counts[s] > kv.keys.tokens - first) {
      return invalid(base::concat("first_keys[", s, "]: ", first, " and ", key_counts[s], " keys after it; keys holds ",
                                  kv.keys.tokens));
    }
  }
  return {};
}

Result<void> validate_blocks(const KeyValues& kv, std::span<const std::int64_t> key_counts) {
  const auto sequences = static_cast<std::int64_t>(key_counts.size());
  if (kv.block_size < 1 || kv.blocks_per_sequence < 0 ||
      static_cast<std::int64_t>(kv.block_table.size()) != sequences * kv.blocks_per_sequence) {
    return invalid(base::concat("block_table: ", kv.block_table.size(), " blocks of ", kv.block_size, " for ",
                                sequences, " sequences of ", kv.blocks_per_sequence, " blocks"));
  }
  const std::int64_t blocks = kv.keys.tokens / kv.block_size;
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t count = key_counts[static_cast<std::size_t>(s)];
    const std::int64_t used = (count + kv.block_size - 1) / kv.block_size;
    if (used > kv.blocks_per_sequence) {
      return invalid(base::concat("key_counts[", s, "]: ", count, "; its ", kv.blocks_per_sequence, " blocks hold ",
                                  kv.blocks_per_sequence * kv.block_size));
    }
    for (std::int64_t b = 0; b < used; ++b) {
      const std::int32_t block = kv.block_table[static_cast<std::size_t>(s * kv.blocks_per_sequence + b)];
      if (block < 0 || block >= blocks) {
        return invalid(base::concat("block_table[", s, ", ", b, "]: ", block, "; expected 0 to ", blocks - 1));
      }
    }
  }
  return {};
}

Result<void> validate_numbers(const AttentionRequest& request) {
  if (!(request.scale > 0) || std::isinf(request.scale)) {
    return invalid(base::concat("scale: ", request.scale, "; expected a finite number above 0"));
  }
  if (!(request.softcap >= 0) || std::isinf(request.softcap)) {
    return invalid(base::concat("softcap: ", request.softcap, "; expected 0 or a finite number above it"));
  }
  if (request.window < 0) return invalid(base::concat("window: ", request.window, "; expected at least 0"));
  if (!request.sinks.empty() && static_cast<std::int64_t>(request.sinks.size()) != request.q.heads) {
    return invalid(base::concat("sinks: ", request.sinks.size(), " for ", request.q.heads, " heads"));
  }
  return {};
}

}  // namespace

Result<void> validate_attention_operands(const AttentionRequest& request) {
  if (auto checked = validate_shapes(request); !checked) return checked;
  if (auto checked = validate_sequences(request); !checked) return checked;
  const bool blocks = !request.kv.block_table.empty();
  if (auto checked = blocks ? validate_blocks(request.kv, request.key_counts)
                            : validate_contiguous(request.kv, request.key_counts);
      !checked) {
    return checked;
  }
  return validate_numbers(request);
}

Result<void> validate_attention(const AttentionRequest& request) {
  if (auto checked = validate_attention_operands(request); !checked) return checked;
  const bool blocks = !request.kv.block_table.empty();
  TensorView shape = request.q;
  shape.dim = request.kv.values.dim;
  // Blocks lie where their strides say; the range of all their slots is not worth a guess.
  const tiles::Range nothing{"", 0, 0};
  return validate_output(
      request.y, shape, {},
      {range_of("q", request.q), blocks ? nothing : range_of("keys", request.kv.keys),
       blocks ? nothing : range_of("values", request.kv.values), tiles::range_of("sinks", request.sinks)});
}

}  // namespace isologit::detail::forward
