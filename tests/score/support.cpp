#include "score/support.hpp"

#include <cmath>

#include "isologit/kernels.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"

namespace isologit::testing_score {
namespace {

using oracle::bits_of;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// One row's outputs as bits, in a fixed order.
struct RowBits {
  std::uint32_t logprob, lse, entropy;
  std::int64_t argmax, rank;
  bool operator==(const RowBits&) const = default;
};

RowBits bits_of_row(const Outputs& outputs, std::int64_t i) {
  return {bits_of(outputs.logprobs[at(i)]), bits_of(outputs.lse[at(i)]), bits_of(outputs.entropy[at(i)]),
          outputs.argmax[at(i)], outputs.rank[at(i)]};
}

std::ostream& operator<<(std::ostream& out, const RowBits& bits) {
  return out << std::hexfloat << "logprob " << oracle::float_of(bits.logprob) << " lse " << oracle::float_of(bits.lse)
             << " entropy " << oracle::float_of(bits.entropy) << " argmax " << bits.argmax << " rank " << bits.rank;
}

testing::AssertionResult compare(const RowBits& found, const RowBits& expected, std::int64_t row) {
  if (found == expected) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "row " << row << ": " << found << "; expected " << expected;
}

}  // namespace

std::vector<std::string> runnable_kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : kernels()) {
    if (kernel.runnable && kernel.arithmetic == Arithmetic::exact) names.push_back(kernel.name);
  }
  return names;
}

Outputs::Outputs(std::int64_t rows)
    // What a call must overwrite.
    : logprobs(at(rows), 1234.5F),
      lse(at(rows), 1234.5F),
      entropy(at(rows), 1234.5F),
      argmax(at(rows), -77),
      rank(at(rows), -77) {}

Outputs score_all(const Head& head, const MatrixView& hidden, std::span<const std::int64_t> ids,
                  std::span<const float> temperatures, const ScoreOptions& options) {
  Outputs outputs(hidden.rows);
  ScoreRequest request;
  request.hidden = hidden;
  request.token_ids = ids;
  request.temperatures = temperatures;
  request.logprobs = outputs.logprobs.data();
  request.lse = outputs.lse.data();
  request.entropy = outputs.entropy.data();
  request.argmax = outputs.argmax.data();
  request.rank = outputs.rank.data();
  const Result<ScoreReport> report = score(head, request, options);
  if (report) {
    outputs.report = *report;
  } else {
    ADD_FAILURE() << report.error().message;
  }
  return outputs;
}

testing::AssertionResult same_row(const Outputs& a, std::int64_t i, const Outputs& b, std::int64_t j) {
  return compare(bits_of_row(a, i), bits_of_row(b, j), i);
}

testing::AssertionResult same_rows(const Outputs& a, const Outputs& b) {
  if (a.lse.size() != b.lse.size()) return testing::AssertionFailure() << "different numbers of rows";
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(a.lse.size()); ++i) {
    if (auto same = same_row(a, i, b, i); !same) return same;
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult row_is_right(const Outputs& outputs, std::int64_t i, std::span<const float> z,
                                      std::int64_t id) {
  const oracle::Row row(z);
  const RowBits expected{bits_of(row.logprob(id)), bits_of(row.lse()), bits_of(row.entropy()), row.argmax(),
                         row.rank(id)};
  return compare(bits_of_row(outputs, i), expected, i) << ", id " << id << " of " << z.size();
}

testing::AssertionResult rows_are_right(const Outputs& outputs, std::span<const float> z,
                                        std::span<const std::int64_t> ids) {
  const oracle::Row row(z);
  const std::uint32_t lse = bits_of(row.lse());
  const std::uint32_t entropy = bits_of(row.entropy());
  const std::int64_t argmax = row.argmax();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const RowBits expected{bits_of(row.logprob(ids[i])), lse, entropy, argmax, row.rank(ids[i])};
    const auto n = static_cast<std::int64_t>(i);
    if (auto right = compare(bits_of_row(outputs, n), expected, n); !right) {
      return right << ", id " << ids[i] << " of " << z.size();
    }
  }
  return testing::AssertionSuccess();
}

bool same_logit(float a, float b) { return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)); }

Head GivenLogits::head() const {
  Head head;
  head.weight = matrix(z_, static_cast<std::int64_t>(z_.size()), 1);
  head.vocab_size = head.weight.rows;
  return head;
}

Outputs score_row(const GivenLogits& row, std::span<const std::int64_t> ids, const ScoreOptions& options) {
  return score_all(row.head(), row.hidden(static_cast<std::int64_t>(ids.size())), ids, {}, options);
}

MatrixView matrix(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return {values.data(), DType::f32, rows, cols, cols};
}

}  // namespace isologit::testing_score
