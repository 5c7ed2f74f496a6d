// What follows from the contract (7): the same bits whatever the batch, threads, block, environment or padding. These
// tests compare calls with one another; that the bits are the right ones is for the other tests, and for the first
// one here, which ties this file's data to the oracle.
#include <algorithm>
#include <cfenv>
#include <clocale>
#include <cstring>
#include <numeric>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

// More rows than a block of any kernel holds, more ids than a tile; NaN, inf and ignored rows among the others.
class Invariance : public KernelTest {
 protected:
  Invariance() {
    oracle::Random random(7);
    for (std::int64_t n = 0; n < rows_; ++n) {
      ids_.push_back(n % 13 == 5 ? -100 : random.between(0, vocab_ - 1));
      temperatures_.push_back(n % 3 == 0 ? 1.0F : static_cast<float>(0.5 + random.uniform()));
    }
    const auto cols = static_cast<std::size_t>(cols_);
    oracle::encode(DType::bf16, data_.hidden.data(), 4 * cols + 3, std::nanf(""));
    oracle::encode(DType::bf16, data_.hidden.data(), 9 * cols + 1, HUGE_VALF);
    data_.hidden_values = oracle::decode_all(DType::bf16, data_.hidden.data(), static_cast<std::size_t>(rows_) * cols);
    head_.weight = data_.weight_view();
    head_.bias = data_.bias_view();
    head_.vocab_size = vocab_;
    head_.transforms = {true, 30.0F, ScaleKind::multiply, 0.9F};
  }

  Outputs all(int threads = 1) const {
    return score_all(head_, data_.hidden_view(), ids_, temperatures_, options(threads));
  }
  Outputs rows_alone(std::int64_t first, std::int64_t count) const {
    MatrixView hidden = data_.hidden_view();
    hidden.data = data_.hidden.data() + 2 * first * cols_;
    hidden.rows = count;
    return score_all(head_, hidden, std::span(ids_).subspan(at(first), at(count)),
                     std::span(temperatures_).subspan(at(first), at(count)), options());
  }
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  std::int64_t rows_ = is_reference() || instrumented ? 70 : 130;
  std::int64_t vocab_ = is_reference() || instrumented ? 70 : 200;
  std::int64_t cols_ = 40;
  // Near ties, so that plain f64 or another order of summation would show.
  oracle::DotData data_ =
      make_dot({rows_, vocab_, cols_, DType::bf16, DType::bf16, DType::f32}, oracle::DotFamily::near_tie, 8);
  std::vector<std::int64_t> ids_;
  std::vector<float> temperatures_;
  Head head_;
};

TEST_P(Invariance, TheBitsAreRight) {
  const Outputs outputs = all();
  for (std::int64_t n = 0; n < rows_; n += 3) {
    if (ids_[at(n)] == -100) continue;
    std::vector<float> z;
    for (std::int64_t v = 0; v < vocab_; ++v) {
      const float logit = oracle::logit(data_.hidden_row(n), data_.weight_row(v), at(cols_), data_.bias_of(v));
      z.push_back(oracle::transform(logit, head_.transforms, temperatures_[at(n)]));
    }
    ASSERT_TRUE(row_is_right(outputs, n, z, ids_[at(n)]));
  }
}

TEST_P(Invariance, Threads) {
  const Outputs expected = all();
  for (int threads = 2; threads <= 8; ++threads) {
    const Outputs outputs = all(threads);
    ASSERT_TRUE(same_rows(outputs, expected)) << threads << " threads";
    EXPECT_EQ(outputs.report.threads, threads);
    EXPECT_EQ(outputs.report.logit_fallbacks, expected.report.logit_fallbacks);
    EXPECT_EQ(outputs.report.rows, expected.report.rows);
  }
  EXPECT_TRUE(same_rows(all(0), expected));  // as many as the process may use
}

TEST_P(Invariance, OneRowAlone) {
  const Outputs expected = all();
  for (std::int64_t n = 0; n < rows_; ++n) ASSERT_TRUE(same_row(rows_alone(n, 1), 0, expected, n));
}

TEST_P(Invariance, Slices) {
  const Outputs expected = all();
  for (const std::int64_t size : {2, 7, 64, 69}) {
    for (std::int64_t first = 0; first < rows_; first += size) {
      const std::int64_t count = std::min(size, rows_ - first);
      const Outputs slice = rows_alone(first, count);
      for (std::int64_t i = 0; i < count; ++i) ASSERT_TRUE(same_row(slice, i, expected, first + i)) << size;
    }
  }
}

TEST_P(Invariance, PermutedRows) {
  const Outputs expected = all();
  std::vector<std::int64_t> order(at(rows_));
  std::iota(order.begin(), order.end(), 0);
  oracle::Random random(2);
  for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[random.below(i + 1)]);
  std::vector<std::uint8_t> hidden;
  std::vector<std::int64_t> ids;
  std::vector<float> temperatures;
  for (const std::int64_t n : order) {
    const auto from = data_.hidden.begin() + 2 * n * cols_;
    hidden.insert(hidden.end(), from, from + 2 * cols_);
    ids.push_back(ids_[at(n)]);
    temperatures.push_back(temperatures_[at(n)]);
  }
  const Outputs outputs =
      score_all(head_, {hidden.data(), DType::bf16, rows_, cols_, cols_}, ids, temperatures, options(3));
  for (std::int64_t i = 0; i < rows_; ++i) ASSERT_TRUE(same_row(outputs, i, expected, order[at(i)]));
}

TEST_P(Invariance, ReversedByANegativeStride) {
  const Outputs expected = all();
  const MatrixView reversed{data_.hidden.data() + 2 * (rows_ - 1) * cols_, DType::bf16, rows_, cols_, -cols_};
  const std::vector<std::int64_t> ids(ids_.rbegin(), ids_.rend());
  const std::vector<float> temperatures(temperatures_.rbegin(), temperatures_.rend());
  const Outputs outputs = score_all(head_, reversed, ids, temperatures, options());
  for (std::int64_t i = 0; i < rows_; ++i) ASSERT_TRUE(same_row(outputs, i, expected, rows_ - 1 - i));
}

TEST_P(Invariance, AppendedPaddingRows) {
  const Outputs expected = all();
  for (const float filler : {0.0F, std::nanf(""), HUGE_VALF}) {
    std::vector<std::uint8_t> hidden = data_.hidden;
    std::vector<std::int64_t> ids = ids_;
    std::vector<float> temperatures = temperatures_;
    for (std::int64_t i = 0; i < 9; ++i) {
      ids.push_back(i % 2 == 0 ? -100 : 3);
      temperatures.push_back(1);
    }
    hidden.resize(hidden.size() + at(9 * 2 * cols_));
    for (std::int64_t k = 0; k < 9 * cols_; ++k) {
      oracle::encode(DType::bf16, hidden.data(), at(rows_ * cols_ + k), filler);
    }
    const Outputs outputs =
        score_all(head_, {hidden.data(), DType::bf16, rows_ + 9, cols_, cols_}, ids, temperatures, options(2));
    for (std::int64_t n = 0; n < rows_; ++n) ASSERT_TRUE(same_row(outputs, n, expected, n)) << filler;
  }
}

// Zeros against finite weights change nothing, wherever they stand.
TEST_P(Invariance, ZeroPaddedHidden) {
  const Outputs expected = all();
  for (const std::int64_t more : {1, 24, 216, 217}) {
    const std::int64_t cols = cols_ + more;
    std::vector<std::uint8_t> hidden(at(rows_ * cols * 2));
    std::vector<std::uint8_t> weight(at(vocab_ * cols * 2));
    oracle::Random random(3);
    for (std::int64_t k = 0; k < vocab_ * cols; ++k) {
      oracle::encode(DType::bf16, weight.data(), at(k), static_cast<float>(1e30 * random.normal()));
    }
    // Half of the padding before, half after.
    const std::int64_t before = more / 2;
    for (std::int64_t n = 0; n < rows_; ++n) {
      std::memcpy(&hidden[at(2 * (n * cols + before))], &data_.hidden[at(2 * n * cols_)], at(2 * cols_));
    }
    for (std::int64_t v = 0; v < vocab_; ++v) {
      std::memcpy(&weight[at(2 * (v * cols + before))], &data_.weight[at(2 * v * cols_)], at(2 * cols_));
    }
    Head head = head_;
    head.weight = {weight.data(), DType::bf16, vocab_, cols, cols};
    const Outputs outputs =
        score_all(head, {hidden.data(), DType::bf16, rows_, cols, cols}, ids_, temperatures_, options());
    ASSERT_TRUE(same_rows(outputs, expected)) << more << " zeros";
  }
}

// Splitting the vocabulary otherwise: rows of the weight moved to other tiles by rows of -inf logits before them.
TEST_P(Invariance, OtherTiles) {
  oracle::Random random(4);
  std::vector<float> z(at(vocab_));
  for (float& x : z) x = static_cast<float>(5 * random.normal());
  const std::vector<std::int64_t> ids = {0, vocab_ / 2, vocab_ - 1};
  const Outputs expected = score_row(GivenLogits(z), ids, options());
  ASSERT_TRUE(rows_are_right(expected, z, ids));
  for (const std::int64_t shift : {1, 31, 63, 64, 65}) {
    std::vector<float> moved(at(shift), -HUGE_VALF);
    moved.insert(moved.end(), z.begin(), z.end());
    std::vector<std::int64_t> moved_ids = ids;
    for (std::int64_t& id : moved_ids) id += shift;
    Outputs outputs = score_row(GivenLogits(moved), moved_ids, options(2));
    for (std::int64_t& id : outputs.argmax) id -= shift;
    ASSERT_TRUE(same_rows(outputs, expected)) << shift;
  }
}

TEST_P(Invariance, RoundingModesAreIgnoredAndRestored) {
  const Outputs expected = all();
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    ASSERT_EQ(std::fesetround(mode), 0);
    const Outputs outputs = all(3);
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(after, mode);
    ASSERT_TRUE(same_rows(outputs, expected)) << "mode " << mode;
  }
}

#if defined(__SSE2__)
TEST_P(Invariance, FlushToZeroIsIgnoredAndRestored) {
  // Subnormal elements and results, which flushing would lose.
  const oracle::DotShape shape{4, 70, 40, DType::f32, DType::f32, DType::f32};
  const oracle::DotData data = make_dot(shape, oracle::DotFamily::subnormal, 1);
  Head head;
  head.weight = data.weight_view();
  head.bias = data.bias_view();
  head.vocab_size = shape.vocab;
  head.transforms = {true, 0x1p-126F, ScaleKind::divide, 3.0F};
  const std::vector<std::int64_t> ids = {0, 1, 2, 3};
  const std::vector<float> temperatures = {0x1p-126F};
  const Outputs subnormal = score_all(head, data.hidden_view(), ids, temperatures, options());
  const Outputs expected = all();
  const unsigned saved = _mm_getcsr();
  constexpr unsigned flush_to_zero = 0x8000;
  constexpr unsigned denormals_are_zero = 0x0040;
  constexpr unsigned flags = 0x3F;
  _mm_setcsr(saved | flush_to_zero | denormals_are_zero);
  const unsigned before = _mm_getcsr();
  const Outputs flushed = score_all(head, data.hidden_view(), ids, temperatures, options(2));
  const Outputs outputs = all(2);
  const unsigned after = _mm_getcsr();
  _mm_setcsr(saved);
  EXPECT_EQ(after & ~flags, before & ~flags);
  ASSERT_TRUE(same_rows(flushed, subnormal));
  ASSERT_TRUE(same_rows(outputs, expected));
}
#endif

TEST_P(Invariance, Locale) {
  const Outputs expected = all();
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"", "C.UTF-8", "de_DE.UTF-8", "fr_FR.UTF-8", "tr_TR.UTF-8"}) {
    if (std::setlocale(LC_ALL, name) == nullptr) continue;  // not installed here
    const std::string set = std::setlocale(LC_ALL, nullptr);
    const Outputs outputs = all();
    EXPECT_EQ(set, std::setlocale(LC_ALL, nullptr));
    std::setlocale(LC_ALL, before.c_str());
    ASSERT_TRUE(same_rows(outputs, expected)) << name;
  }
}

TEST_P(Invariance, RunToRun) {
  const Outputs expected = all(2);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(same_rows(all(2), expected));
}

// Nothing of the weight, the hidden states or the bias is kept from one call to the next.
TEST_P(Invariance, AWeightWrittenInPlaceIsSeenByTheNextCall) {
  std::vector<float> z = {1, 2, 3, 4};
  float hidden = 1;
  Head head;
  head.weight = matrix(z, 4, 1);
  head.vocab_size = 4;
  const std::vector<std::int64_t> ids = {2};
  const MatrixView view{&hidden, DType::f32, 1, 1, 1};
  ASSERT_TRUE(row_is_right(score_all(head, view, ids, {}, options()), 0, z, 2));
  z[2] = 7.5F;
  ASSERT_TRUE(row_is_right(score_all(head, view, ids, {}, options()), 0, z, 2));
  hidden = -2;
  ASSERT_TRUE(row_is_right(score_all(head, view, ids, {}, options()), 0, std::vector<float>{-2, -4, -15, -8}, 2));
}

ISOLOGIT_FOR_EACH_KERNEL(Invariance);

// Kernels differ in speed only.
TEST(Kernels, AllGiveTheSameBits) {
  const oracle::DotData data =
      make_dot({20, 130, 65, DType::f16, DType::bf16, std::nullopt}, oracle::DotFamily::near_tie, 6);
  Head head;
  head.weight = data.weight_view();
  head.vocab_size = 130;
  std::vector<std::int64_t> ids(20);
  std::iota(ids.begin(), ids.end(), 100);
  ScoreOptions options;
  options.kernel = "reference";
  const Outputs expected = score_all(head, data.hidden_view(), ids, {}, options);
  for (const std::string& kernel : runnable_kernels()) {
    options.kernel = kernel;
    const Outputs outputs = score_all(head, data.hidden_view(), ids, {}, options);
    EXPECT_TRUE(same_rows(outputs, expected)) << kernel;
    EXPECT_EQ(outputs.report.kernel, kernel);
  }
}

}  // namespace
}  // namespace isologit::testing_score
