// A head whose vocabulary is split over parties that make the same call at the same time, each with its own rows of the
// weight. What they exchange are states of O(rows) bytes, never logits, and the sums of dhidden.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace isologit {

// Of backward, where each party wants dhidden of rows of its own alone: the parties' sums of a row then go to the one
// that has it, and not to all. Its dhidden of other rows is not written, but for those that do not contribute.
struct OwnRows {
  std::int64_t party = 0;  // this one's number; the parties have those from 0 on
  std::int64_t first_row = 0;
  std::int64_t last_row = 0;  // [first_row, last_row) of hidden: together the parties have every row once
  // As gather, but own[p] is for party p.
  std::function<bool(std::span<const std::vector<std::byte>> own, std::vector<std::vector<std::byte>>& all)> scatter;
};

// Of one party, whose head has its own rows alone, ids [first_id, first_id + head.vocab_size); it may have none. All
// parties make the same calls with the same request, but for the gradients of their own rows, and every party has all
// results: the same bits as of the whole head.
struct Peers {
  std::int64_t first_id = 0;
  std::int64_t vocab_size = 0;  // of the whole head: together the parties have every id once
  // Called on the calling thread, in its floating-point modes, equally often by every party: hands `own` to the others
  // and appends to `all` the bytes of every party, its own among them, in any order. False, or an exception, fails the
  // call.
  std::function<bool(std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all)> gather;
  std::optional<OwnRows> own_rows = std::nullopt;  // of all parties or of none
};

}  // namespace isologit
