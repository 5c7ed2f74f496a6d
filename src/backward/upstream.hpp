// What a request must satisfy, and what it says of its rows: which of them contribute, and the upstream gradients of
// each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backward/derivative.hpp"
#include "isologit/backward.hpp"
#include "tiles/support.hpp"

namespace isologit::detail::backward {

// Everything a request must satisfy before anything is computed.
Result<void> validate(const Head& head, const BackwardRequest& request, const BackwardOptions& options);

// An id with an upstream of its own: A of backward/derivative.hpp, rounded to the nearest double.
struct TargetId {
  std::int64_t id;
  double a;
  double a_plus_b;
};

struct ActiveRow {
  std::int64_t index = 0;  // in hidden
  float temperature = 1;
  bool poisoned = false;         // an upstream that is not finite
  std::size_t first_target = 0;  // of the targets: ids of the support, ascending, each once
  std::size_t last_target = 0;
};

class ActiveRows {
 public:
  // Throws std::bad_alloc.
  explicit ActiveRows(const BackwardRequest& request, std::int64_t vocab);

  // Reduces the active rows to these of them.
  void keep(std::span<const std::size_t> which);

  const tiles::SupportReader& support() const { return support_; }
  bool dense() const { return request_.d_logits.data != nullptr; }
  const std::vector<ActiveRow>& active() const { return rows_; }
  std::span<const TargetId> targets(const ActiveRow& row) const {
    return {targets_.data() + row.first_target, row.last_target - row.first_target};
  }

  // Of an id that is no target, and of any.
  Upstream of_row(const ActiveRow& row) const;
  Upstream of_id(const ActiveRow& row, std::int64_t id) const;
  // Null: none.
  const RowSummary* summary(const ActiveRow& row) const;
  // Element [row, 0] of d_logits.
  const float* d_logits(const ActiveRow& row) const;

 private:
  bool all_ignored(std::int64_t index) const;
  exact::BigFloat b(const ActiveRow& row) const;  // B
  void add(std::int64_t index, std::int64_t vocab);
  // Calls visit(id, a) for the row's ids that are not ignored.
  template <class Visit>
  void each_id(std::int64_t index, Visit visit) const;

  const BackwardRequest& request_;
  tiles::SupportReader support_;
  std::vector<ActiveRow> rows_;
  std::vector<TargetId> targets_;
};

}  // namespace isologit::detail::backward
