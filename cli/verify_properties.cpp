#include "cli/verify_properties.hpp"

#include <fmt/format.h>

#include <cfenv>
#include <cmath>
#include <limits>
#include <numeric>

#include "cli/verify_forward.hpp"
#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "isologit/partial.hpp"

namespace isologit::detail::cli {
namespace {

using RowIds = std::vector<std::int64_t>;

// What was computed of these rows, of results of `count` rows.
Results rows_of(const Results& all, const RowIds& rows, std::int64_t count) {
  Results chosen;
  for (const Bits& one : all) {
    if (static_cast<std::int64_t>(one.values.size()) != count * one.per_row) continue;
    Bits of{one.name, one.per_row, {}, one.bytes};
    for (const std::int64_t row : rows) {
      const auto begin = one.values.begin() + row * one.per_row;
      of.values.insert(of.values.end(), begin, begin + one.per_row);
    }
    chosen.push_back(std::move(of));
  }
  return chosen;
}

RowIds all_rows(const HeadCase& one) {
  RowIds rows(static_cast<std::size_t>(one.rows()));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

// The rows `asked` of `other`, which are the rows `same` of `one`, against these.
struct Pair {
  std::string what;
  HeadCase other;
  RowIds asked, same;
};

Result<void> compare_pair(const HeadRun& run, const HeadCase& one, const Pair& pair, const ScoreOptions& options,
                          const Results& expected, Compared& compared) {
  const Result<Results> found = run.run(pair.other, options);
  if (!found) return tl::unexpected(found.error());
  compared.add(pair.what, rows_of(*found, pair.asked, pair.other.rows()), rows_of(expected, pair.same, one.rows()));
  return {};
}

Result<void> compare_pairs(const HeadRun& run, const HeadCase& one, const std::vector<Pair>& pairs,
                           const ScoreOptions& options, Compared& compared) {
  const Result<Results> expected = run.run(one, options);
  if (!expected) return tl::unexpected(expected.error());
  for (const Pair& pair : pairs) {
    if (auto done = compare_pair(run, one, pair, options, *expected, compared); !done) return done;
  }
  return {};
}

Result<void> compare_slices(const HeadRun& run, const HeadCase& one, const ScoreOptions& options, Compared& compared) {
  std::vector<Pair> pairs;
  for (std::int64_t begin = 0, length = 1; begin < one.rows(); begin += length++) {  // of 1, 2, 3... rows
    RowIds slice(static_cast<std::size_t>(std::min(length, one.rows() - begin)));
    std::iota(slice.begin(), slice.end(), begin);
    RowIds asked(slice.size());
    std::iota(asked.begin(), asked.end(), 0);
    pairs.push_back({fmt::format("rows {} to {} alone", begin, slice.back()), select_rows(one, slice), asked, slice});
  }
  return compare_pairs(run, one, pairs, options, compared);
}

Result<void> compare_order(const HeadRun& run, const HeadCase& one, const ScoreOptions& options, Compared& compared) {
  const RowIds rows = all_rows(one);
  RowIds order;
  for (const std::int64_t row : rows) order.push_back((5 * row + 3) % one.rows());
  return compare_pairs(run, one, {{"in another order", select_rows(one, order), rows, order}}, options, compared);
}

Result<void> compare_neighbours(const HeadRun& run, const HeadCase& one, const ScoreOptions& options,
                                Compared& compared) {
  Pair pair{"between rows of NaN", one, {}, {}};
  for (std::int64_t row = 0; row < one.rows(); ++row) {
    if (row % 2 == 0) {
      pair.asked.push_back(row);
      continue;
    }
    for (Elements* of : {&pair.other.hidden, &pair.other.given}) {
      for (std::int64_t c = 0; c < of->cols; ++c) {
        exact::store_element(of->bytes.data() + static_cast<std::size_t>(row * of->cols + c) * dtype_size(of->dtype),
                             of->dtype, std::numeric_limits<double>::quiet_NaN());
      }
    }
  }
  pair.same = pair.asked;
  return compare_pairs(run, one, {pair}, options, compared);
}

Result<void> compare_threads(const HeadRun& run, const HeadCase& one, const ScoreOptions& options, Compared& compared) {
  const Result<Results> expected = run.run(one, options);
  if (!expected) return tl::unexpected(expected.error());
  for (const int threads : {1, 2, 3, 7}) {
    ScoreOptions with = options;
    with.threads = threads;
    const Pair pair{fmt::format("threads {}", threads), one, all_rows(one), all_rows(one)};
    if (auto done = compare_pair(run, one, pair, with, *expected, compared); !done) return done;
  }
  return {};
}

Result<void> compare_rounding(const HeadRun& run, const HeadCase& one, const ScoreOptions& options,
                              Compared& compared) {
  const Result<Results> expected = run.run(one, options);
  if (!expected) return tl::unexpected(expected.error());
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    const Pair pair{"in another rounding mode", one, all_rows(one), all_rows(one)};
    const int before = std::fegetround();
    std::fesetround(mode);
    auto done = compare_pair(run, one, pair, options, *expected, compared);
    std::fesetround(before);
    if (!done) return done;
  }
  return {};
}

// In three parts of the vocabulary.
Result<void> score_in_parts(const HeadCase& one, const ScoreRequest& request, const ScoreOptions& options) {
  const Head whole = one.head();
  Result<PartialScore> partial =
      PartialScore::begin(whole.vocab_size, whole.weight.cols, whole.transforms, request, options);
  if (!partial) return tl::unexpected(partial.error());
  for (bool done = false; !done;) {
    for (std::int64_t first = 0, ids = 0; first < whole.vocab_size; first += ids) {
      ids = std::min(whole.vocab_size - first, first == 0 ? std::int64_t{1} : std::int64_t{67});
      Head part = whole;
      part.weight.data = exact::row_data(whole.weight, first);
      part.weight.rows = part.bias.size = part.vocab_size = ids;
      part.bias.data =
          static_cast<const char*>(whole.bias.data) + first * static_cast<std::int64_t>(dtype_size(whole.bias.dtype));
      if (const auto absorbed = partial->absorb({part, first}); !absorbed) return tl::unexpected(absorbed.error());
    }
    const Result<bool> finished = partial->finish_round();
    if (!finished) return tl::unexpected(finished.error());
    done = *finished;
  }
  return {};
}

Result<void> compare_shards(const HeadRun& run, const HeadCase& one, const ScoreOptions& options, Compared& compared) {
  if (run.name != "score") return {};
  const Result<Results> whole = run.run(one, options);
  if (!whole) return tl::unexpected(whole.error());
  const Result<Results> found =
      score_results_by(one, [&](const ScoreRequest& request) { return score_in_parts(one, request, options); });
  if (!found) return tl::unexpected(found.error());
  compared.add("in three parts", *found, *whole);
  return {};
}

}  // namespace

void Compared::add(const std::string& what, const Results& found, const Results& expected) {
  const Difference more = cli::difference(found, expected);
  elements += count_of(expected);
  if (difference.elements == 0 && more.elements != 0) difference.first = what + ": " + more.first;
  difference.elements += more.elements;
}

std::span<const Property> properties() {
  static constexpr Property list[] = {
      {"slices", "a row alone, or with few others", compare_slices},
      {"order", "rows in another order", compare_order},
      {"neighbours", "every other row NaN", compare_neighbours},
      {"threads", "1, 2, 3, 7", compare_threads},
      {"rounding mode", "that of the caller", compare_rounding, true},
      {"shards", "the vocabulary in three parts", compare_shards, true},
  };
  return list;
}

Result<void> compare_decode(const ForwardResults& at_once, const ForwardResults& by_token, const ScoreOptions& options,
                            Compared& compared) {
  for (const DType dtype : kDataTypes) {
    const ForwardCase one = make_forward_case(DataFamily::normal, dtype);
    Result<Results> expected = at_once(one, options);
    if (!expected) return tl::unexpected(expected.error());
    expected->resize(1);
    const Result<Results> found = by_token(one, options);
    if (!found) return tl::unexpected(found.error());
    compared.add(fmt::format("{} attention token by token", dtype_name(dtype)), *found, *expected);
  }
  return {};
}

}  // namespace isologit::detail::cli
