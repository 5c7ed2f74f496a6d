// The support of a distribution: which ids of the vocabulary it is over, row by row.
#pragma once

#include <cstdint>
#include <span>

namespace isologit {

// Lists of ids, one per row or one for all: those of row i are ids[offsets[i]] to ids[offsets[i + 1] - 1], ascending,
// each once, within the vocabulary. offsets has N + 1 elements, begins with 0 and does not decrease; or 2, for one list
// that all rows share. Empty offsets: no lists.
struct IdLists {
  std::span<const std::int64_t> offsets;
  std::span<const std::int64_t> ids;
};

// The support S of each row's distribution (CONTRACT.md 3): the ids of the real vocabulary that lie in the common
// range, are among the row's kept ids (where lists are given) and not among its banned ids. By default all.
struct Support {
  std::int64_t first_id = 0;
  std::int64_t last_id = -1;  // one past the range; -1: vocab_size
  IdLists kept;
  IdLists banned;
};

}  // namespace isologit
