#include "given/support.hpp"

#include <algorithm>
#include <cstring>

#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"

namespace isologit::testing_given {
namespace {

constexpr float kUntouched = 1234.5F;
constexpr std::int64_t kOutputGap = 3;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

bool ignored(const Given& given, std::int64_t row) {
  if (given.token_ids.empty()) return false;
  const auto* ids = &given.token_ids[at(row * given.ids_per_row)];
  return std::all_of(ids, ids + given.ids_per_row, [](std::int64_t id) { return id == -100; });
}

}  // namespace

MatrixView Given::view() const { return {bytes.data() + first_byte, dtype, rows, vocab, row_stride}; }

std::vector<float> Given::last(std::int64_t i) const {
  std::vector<float> z(values.begin() + i * vocab, values.begin() + (i + 1) * vocab);
  const float t = temperatures.empty() ? 1.0F : temperatures[temperatures.size() == 1 ? 0 : at(i)];
  if (t == 1.0F) return z;
  for (float& x : z) x = oracle::temperature(x, t);
  return z;
}

void Given::draw_ids(std::int64_t per_row, std::uint64_t seed) {
  oracle::Random random(seed);
  ids_per_row = per_row;
  token_ids.clear();
  for (std::int64_t i = 0; i < rows * per_row; ++i) {
    token_ids.push_back(random.below(5) == 0 ? -100 : random.between(0, vocab - 1));
  }
}

Given make_given(const std::vector<std::vector<float>>& rows, const Layout& layout) {
  Given given;
  given.rows = static_cast<std::int64_t>(rows.size());
  given.vocab = static_cast<std::int64_t>(rows.front().size());
  given.dtype = layout.dtype;
  const auto size = static_cast<std::int64_t>(dtype_size(layout.dtype));
  const std::int64_t stride = given.vocab + layout.gap;
  given.row_stride = layout.backwards ? -stride : stride;
  given.first_byte = layout.skew + (layout.backwards ? (given.rows - 1) * stride * size : 0);
  given.bytes.assign(at(layout.skew + given.rows * stride * size), 0xAB);
  for (std::int64_t i = 0; i < given.rows; ++i) {
    std::uint8_t* row = given.bytes.data() + given.first_byte + i * given.row_stride * size;
    for (std::int64_t v = 0; v < given.vocab; ++v) {
      oracle::encode(layout.dtype, row, at(v), rows[at(i)][at(v)]);
      given.values.push_back(static_cast<float>(oracle::decode(layout.dtype, row, at(v))));
    }
  }
  return given;
}

std::vector<std::uint32_t> Results::bits() const {
  std::vector<std::uint32_t> all;
  for (const auto* part : {&logprobs, &lse, &entropy, &log_softmax}) {
    for (const float x : *part) all.push_back(oracle::bits_of(x));
  }
  return all;
}

Results score_given(const Given& given, const ScoreOptions& options) {
  const std::int64_t stride = given.vocab + kOutputGap;
  Results results;
  results.logprobs.assign(given.token_ids.size(), kUntouched);
  results.lse.assign(at(given.rows), kUntouched);
  results.entropy = results.lse;
  std::vector<float> all(at(given.rows * stride), kUntouched);
  GivenLogitsRequest request;
  request.logits = given.view();
  request.temperatures = given.temperatures;
  request.token_ids = given.token_ids;
  request.ids_per_row = given.ids_per_row;
  if (!given.token_ids.empty()) request.logprobs = results.logprobs.data();
  request.lse = results.lse.data();
  request.entropy = results.entropy.data();
  request.log_softmax = all.data();
  request.log_softmax_row_stride = stride;
  const Result<ScoreReport> report = score_logits(request, options);
  if (!report) {
    ADD_FAILURE() << report.error().message;
    return results;
  }
  results.report = *report;
  for (std::int64_t i = 0; i < given.rows; ++i) {
    const auto row = all.begin() + i * stride;
    results.log_softmax.insert(results.log_softmax.end(), row, row + given.vocab);
    EXPECT_TRUE(std::all_of(row + given.vocab, row + stride, [](float x) { return x == kUntouched; }));
  }
  return results;
}

Results expected(const Given& given) {
  Results right;
  for (std::int64_t i = 0; i < given.rows; ++i) {
    const std::vector<float> z = given.last(i);
    const oracle::Row row(z);
    const bool skip = ignored(given, i);
    right.lse.push_back(skip ? 0 : row.lse());
    right.entropy.push_back(skip ? 0 : row.entropy());
    for (std::int64_t v = 0; v < given.vocab; ++v) right.log_softmax.push_back(skip ? 0 : row.logprob(v));
    for (std::int64_t k = 0; !given.token_ids.empty() && k < given.ids_per_row; ++k) {
      const std::int64_t id = given.token_ids[at(i * given.ids_per_row + k)];
      right.logprobs.push_back(id == -100 ? 0 : row.logprob(id));
    }
  }
  return right;
}

void expect_same(const Results& found, const Results& right, const std::string& what) {
  const auto compare = [&](const std::vector<float>& a, const std::vector<float>& b, const char* name) {
    ASSERT_EQ(a.size(), b.size()) << what << ": " << name;
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_EQ(oracle::bits_of(a[i]), oracle::bits_of(b[i]))
          << what << ": " << name << '[' << i << "] is " << std::hexfloat << a[i] << ", expected " << b[i];
    }
  };
  compare(found.logprobs, right.logprobs, "logprobs");
  compare(found.lse, right.lse, "lse");
  compare(found.entropy, right.entropy, "entropy");
  compare(found.log_softmax, right.log_softmax, "log_softmax");
}

}  // namespace isologit::testing_given
