// All that one row keeps of a stream of tiles in the first round: the folds its request needs and no other.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.hpp"
#include "fold/distribution.hpp"
#include "fold/mean_logits.hpp"
#include "fold/rank.hpp"
#include "fold/top_k.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::fold {

// Which folds a request needs, the same for all its rows.
struct RowPlan {
  bool kept = false;       // the distribution over the support
  bool kept_sums = false;  // its sums, and not only its top
  bool dropped = false;    // that of the rest of the vocabulary, for log_kept
  bool raw = false;        // that of the whole vocabulary without temperature, where it differs from `kept`
  bool rank = false;
  bool mean = false;
  std::int64_t top_k = 0;
};

struct Row {
  Row() = default;
  explicit Row(const RowPlan& plan);  // empty

  Distribution kept;
  Distribution dropped;
  Distribution raw;
  Rank rank;
  std::unique_ptr<MeanLogits> mean;  // where it is asked for
  TopK top_k{0};

  void merge(const kernels::FoldLoops& loops, const RowPlan& plan, const Row& other);
  void write(const RowPlan& plan, base::ByteWriter& bytes) const;
  // False when the bytes are not such a row.
  bool read(const RowPlan& plan, base::ByteReader& bytes);
};

}  // namespace isologit::detail::fold
