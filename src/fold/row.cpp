#include "fold/row.hpp"

namespace isologit::detail::fold {

Row::Row(const RowPlan& plan) : mean(plan.mean ? std::make_unique<MeanLogits>() : nullptr), top_k(plan.top_k) {
  kept.summed = plan.kept_sums;
}

void Row::merge(const kernels::FoldLoops& loops, const RowPlan& plan, const Row& other) {
  if (plan.kept) kept.merge(loops, other.kept);
  if (plan.dropped) dropped.merge(loops, other.dropped);
  if (plan.raw) raw.merge(loops, other.raw);
  if (plan.rank) rank.merge(other.rank);
  if (plan.mean) mean->merge(*other.mean);
  if (plan.top_k > 0) top_k.merge(other.top_k);
}

void Row::write(const RowPlan& plan, base::ByteWriter& bytes) const {
  if (plan.kept) kept.write(bytes);
  if (plan.dropped) dropped.write(bytes);
  if (plan.raw) raw.write(bytes);
  if (plan.rank) bytes.put(rank.before);
  if (plan.mean) mean->write(bytes);
  if (plan.top_k > 0) top_k.write(bytes);
}

bool Row::read(const RowPlan& plan, base::ByteReader& bytes) {
  return (!plan.kept || kept.read(bytes)) && (!plan.dropped || dropped.read(bytes)) && (!plan.raw || raw.read(bytes)) &&
         (!plan.rank || bytes.get_count(rank.before)) && (!plan.mean || mean->read(bytes)) &&
         (plan.top_k == 0 || top_k.read(bytes));
}

}  // namespace isologit::detail::fold
