// What a row leaves to the backward pass holds the oracle's sums within its own bounds; and all that a row keeps, as
// bytes.
#include "fold/summary.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "exact/numbers.hpp"
#include "fold/row.hpp"
#include "fold/rows.hpp"
#include "oracle/distribution.hpp"

namespace isologit::test {
namespace {

using detail::fold::Distribution;

Distribution absorbed(const std::vector<float>& z, oracle::Random& random) {
  Distribution state;
  for (Tile& tile : tiles_of(z, random)) {
    state.absorb(portable_loops(), tile.logits.data(), tile.count, tile.first_id);
  }
  return state;
}

// As a score makes it.
RowSummary summary_of(const Distribution& state) {
  detail::fold::RelativeSums sums;
  if (!state.ordinary() || !relative_sums(state, sums)) return {};
  return summarize(state, sums);
}

// value +- error holds all of x, and the error is small.
void expect_within(double value, double error, const oracle::Interval& x) {
  detail::exact::Ball ball = detail::exact::Ball::exact(value);
  ball.radius = detail::exact::Bound::of(detail::exact::BigFloat::from_double(error));
  EXPECT_TRUE(holds(ball, x)) << value << " +- " << error;
  EXPECT_LE(error, std::fabs(value) * 0x1p-40 + 0x1p-900);
}

TEST(Summary, HoldsTheOraclesSums) {
  oracle::Random random(1);
  int made = 0;
  for (const auto& [name, z] : rows(16)) {
    const oracle::Row row(z);
    SCOPED_TRACE(name);
    const RowSummary summary = summary_of(absorbed(z, random));
    const bool ordinary = row.kind() == oracle::RowKind::ordinary;
    if (!ordinary || row.ties() != 1 || row.top() > 0x1p20F) {
      EXPECT_TRUE(std::isnan(summary.top));
    }
    if (!ordinary || row.ties() != 1 || std::fabs(row.top()) > 0x1p19F) continue;
    ASSERT_EQ(summary.top, static_cast<double>(row.top()));
    const oracle::Tail& tail = row.tail(300);
    expect_within(summary.mass, summary.mass_error, tail.mass);
    expect_within(summary.moment, summary.moment_error, tail.moment);
    const detail::fold::RelativeSums sums = detail::fold::relative_sums(summary);
    EXPECT_TRUE(holds(sums.rest, tail.mass));
    EXPECT_TRUE(holds(sums.moment, tail.moment));
    ++made;
  }
  EXPECT_GT(made, 50);
}

std::vector<std::byte> bytes_of(const detail::fold::Row& row, const detail::fold::RowPlan& plan) {
  detail::base::ByteWriter writer;
  row.write(plan, writer);
  return writer.take();
}

// Every set of folds that a request may need.
TEST(Row, BytesAndBackByEveryPlan) {
  oracle::Random random(2);
  const detail::kernels::FoldLoops& loops = portable_loops();
  for (unsigned folds = 0; folds < 32; ++folds) {
    detail::fold::RowPlan plan;
    plan.kept = (folds & 1U) != 0;
    plan.dropped = (folds & 2U) != 0;
    plan.raw = (folds & 4U) != 0;
    plan.rank = (folds & 8U) != 0;
    plan.top_k = (folds & 16U) != 0 ? 3 : 0;
    const auto make = [&](std::uint64_t seed) {
      detail::fold::Row row;
      row.kept = absorbed(make_row(oracle::RowFamily::normal, 50, seed), random);
      row.dropped = absorbed(make_row(oracle::RowFamily::normal, 60, seed), random);
      row.raw = absorbed(make_row(oracle::RowFamily::normal, 70, seed), random);
      row.rank.before = static_cast<std::int64_t>(seed);
      row.top_k = detail::fold::TopK(plan.top_k);
      for (Tile& tile : tiles_of(make_row(oracle::RowFamily::normal, 50, seed), random)) {
        if (plan.top_k > 0) row.top_k.absorb(loops, tile.logits.data(), nullptr, tile.count, tile.first_id);
      }
      return row;
    };
    detail::fold::Row row = make(3);
    const std::vector<std::byte> bytes = bytes_of(row, plan);
    EXPECT_EQ(bytes.empty(), folds == 0);
    for (std::size_t size = 0; size <= bytes.size(); ++size) {
      detail::fold::Row found;
      found.top_k = detail::fold::TopK(plan.top_k);
      detail::base::ByteReader reader({bytes.data(), size});
      EXPECT_EQ(found.read(plan, reader), size == bytes.size()) << folds << " cut to " << size;
      if (size == bytes.size()) {
        EXPECT_EQ(bytes_of(found, plan), bytes);
      }
    }
    // Merged from bytes or directly, and with an empty row.
    detail::fold::Row other = make(4);
    detail::fold::Row from_bytes;
    from_bytes.top_k = detail::fold::TopK(plan.top_k);
    const std::vector<std::byte> others = bytes_of(other, plan);
    detail::base::ByteReader reader(others);
    ASSERT_TRUE(from_bytes.read(plan, reader));
    const std::vector<std::byte> own = bytes_of(row, plan);
    detail::base::ByteReader own_reader(own);
    detail::fold::Row direct;
    direct.top_k = detail::fold::TopK(plan.top_k);
    ASSERT_TRUE(direct.read(plan, own_reader));
    direct.merge(loops, plan, other);
    row.merge(loops, plan, from_bytes);
    EXPECT_EQ(bytes_of(direct, plan), bytes_of(row, plan)) << folds;
    if (plan.rank) {
      EXPECT_EQ(direct.rank.before, 7);
    }
    detail::fold::Row empty;
    empty.top_k = detail::fold::TopK(plan.top_k);
    direct.merge(loops, plan, empty);
    EXPECT_EQ(bytes_of(direct, plan), bytes_of(row, plan)) << folds;
  }
}

}  // namespace
}  // namespace isologit::test
