// The long comparison with the oracle: a million logits and a hundred thousand logprobs, bit for bit, and the figures
// that say how near to a tie they were. Every kernel that runs here, but the reference takes a small share.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>
#include <thread>

#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/kernel_logits.hpp"
#include "score/nearness.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

using oracle::bits_of;

// Runs work(i) for i in [0, count) on all processors.
template <class Work>
void for_each(std::int64_t count, Work work) {
  std::atomic<std::int64_t> next = 0;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1U, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (std::int64_t i = next++; i < count; i = next++) work(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> oracle_logits(const double* hidden, const std::vector<double>& weight, std::size_t cols) {
  std::vector<float> z;
  for (std::size_t v = 0; v < weight.size() / cols; ++v) z.push_back(oracle::logit(hidden, &weight[v * cols], cols));
  return z;
}

std::int64_t count_different(const std::vector<float>& found, const std::vector<float>& expected) {
  std::int64_t different = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) different += same_logit(found[i], expected[i]) ? 0 : 1;
  return different;
}

struct LogitFigures {
  std::atomic<std::int64_t> compared = 0;
  std::atomic<std::int64_t> different = 0;
  std::atomic<std::int64_t> fallbacks = 0;
};

TEST(Long, Logits) {
  std::map<std::string, LogitFigures> by_kernel;
  std::map<std::string, LogitFigures> by_family;
  for (const std::string& name : runnable_kernels()) by_kernel[name];
  for (const oracle::DotFamily family : oracle::dot_families) by_family[std::string(oracle::name_of(family))];
  constexpr DType dtypes[] = {DType::bf16, DType::f16, DType::f32};
  constexpr std::int64_t sizes[] = {5, 33, 64, 127, 256, 515};
  constexpr std::int64_t cases = 11 * 9 * 6;
  for_each(cases, [&](std::int64_t i) {
    const auto family = oracle::dot_families[i % 11];
    const DType hidden = dtypes[i / 11 % 3];
    const DType weight = dtypes[i / 33 % 3];
    const std::int64_t cols = sizes[i / 99];
    const oracle::DotShape shape{1 + i % 5, 350 + (i * 131) % 700, cols, hidden, weight, DType::f32};
    const oracle::DotData data = make_dot(shape, family, static_cast<std::uint64_t>(1000 + i));
    std::vector<float> expected;
    for (std::int64_t n = 0; n < shape.rows; ++n) {
      for (std::int64_t v = 0; v < shape.vocab; ++v) {
        expected.push_back(
            oracle::logit(data.hidden_row(n), data.weight_row(v), static_cast<std::size_t>(cols), data.bias_of(v)));
      }
    }
    for (auto& [name, figures] : by_kernel) {
      const KernelLogits logits = kernel_logits(name, data.hidden_view(), data.weight_view(), data.bias_view());
      const std::int64_t different = count_different(logits.values, expected);
      figures.compared += static_cast<std::int64_t>(expected.size());
      figures.different += different;
      figures.fallbacks += logits.fallbacks;
      LogitFigures& of_family = by_family[std::string(oracle::name_of(family))];
      of_family.compared += static_cast<std::int64_t>(expected.size());
      of_family.different += different;
      of_family.fallbacks += logits.fallbacks;
    }
  });
  for (const auto* table : {&by_kernel, &by_family}) {
    for (const auto& [name, figures] : *table) {
      std::printf("logits  %-14s %8lld compared, %lld different, %lld by exact accumulation\n", name.c_str(),
                  static_cast<long long>(figures.compared), static_cast<long long>(figures.different),
                  static_cast<long long>(figures.fallbacks));
      EXPECT_EQ(figures.different, 0) << name;
    }
  }
  for (const auto& [name, figures] : by_kernel) EXPECT_GE(figures.compared, 1'000'000) << name;
  EXPECT_GT(by_family["near_tie"].fallbacks, 0);
}

// Tallies of rows scored and compared.
class RowFigures {
 public:
  void add(const Outputs& outputs, std::int64_t compared, bool right) {
    const std::lock_guard lock(mutex_);
    logprobs_ += compared;
    wrong_ += right ? 0 : 1;
    undecided_ += outputs.report.undecided_rows;
    fallbacks_ += outputs.report.logit_fallbacks;
    rounds_ = std::max(rounds_, outputs.report.rounds);
  }
  void add(const Nearness& nearness) {
    const std::lock_guard lock(mutex_);
    nearness_.merge(nearness);
  }
  void expect_right(const char* what, std::int64_t at_least) const {
    std::printf(
        "%s: %lld logprobs compared, %lld calls wrong; %lld rows in further rounds, at most %d rounds; %lld "
        "logits by exact accumulation\n",
        what, static_cast<long long>(logprobs_), static_cast<long long>(wrong_), static_cast<long long>(undecided_),
        rounds_, static_cast<long long>(fallbacks_));
    EXPECT_EQ(wrong_, 0);
    EXPECT_GE(logprobs_, at_least);
  }

  void print_nearness() const { nearness_.print(); }

 private:
  std::mutex mutex_;
  std::int64_t logprobs_ = 0, wrong_ = 0, undecided_ = 0, fallbacks_ = 0;
  int rounds_ = 1;
  Nearness nearness_;
};

// Rows of every family with up to 2048 logits, eight ids of each.
TEST(Long, Distributions) {
  constexpr std::int64_t rows = 13'200;
  std::map<std::string, RowFigures> by_kernel;
  for (const std::string& name : runnable_kernels()) by_kernel[name];
  RowFigures nearness;
  for_each(rows, [&](std::int64_t i) {
    const auto family = oracle::row_families[i % 12];
    oracle::Random random(static_cast<std::uint64_t>(i));
    const auto vocab = static_cast<std::int64_t>(std::exp2(1 + 10 * random.uniform()));
    const GivenLogits row(make_row(family, vocab, static_cast<std::uint64_t>(i / 12)));
    std::vector<std::int64_t> ids = {0, vocab - 1};
    while (ids.size() < 8) ids.push_back(random.between(0, vocab - 1));
    for (auto& [name, figures] : by_kernel) {
      if (name == "reference" && (vocab > 100 || i % 7 != 0)) continue;
      ScoreOptions options;
      options.kernel = name;
      options.threads = 1;
      const Outputs outputs = score_row(row, ids, options);
      const auto right = rows_are_right(outputs, row.z(), ids);
      if (!right)
        ADD_FAILURE() << name << " " << oracle::name_of(family) << " vocab " << vocab << " " << right.message();
      figures.add(outputs, 8, static_cast<bool>(right));
    }
    nearness.add(nearness_of(row.z(), ids));
  });
  for (const auto& [name, figures] : by_kernel)
    figures.expect_right(name.c_str(), name == "reference" ? 1000 : 100'000);
  nearness.print_nearness();
}

// A full vocabulary, with logits from flat to nearly certain.
TEST(Long, FullVocabulary) {
  constexpr std::int64_t rows = 104;
  constexpr std::int64_t vocab = 151'936;
  constexpr std::int64_t cols = 8;
  oracle::DotData data =
      make_dot({rows, vocab, cols, DType::bf16, DType::bf16, std::nullopt}, oracle::DotFamily::normal, 77);
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t k = 0; k < cols; ++k) {
      const auto i = static_cast<std::size_t>(n * cols + k);
      const double scale = std::exp2(static_cast<double>(n % 12) - 5);
      oracle::encode(DType::bf16, data.hidden.data(), i, static_cast<float>(data.hidden_values[i] * scale));
    }
  }
  data.hidden_values = oracle::decode_all(DType::bf16, data.hidden.data(), static_cast<std::size_t>(rows * cols));
  Head head;
  head.weight = data.weight_view();
  head.vocab_size = vocab;
  oracle::Random random(1);
  std::vector<std::int64_t> ids;
  for (std::int64_t n = 0; n < rows; ++n) ids.push_back(random.between(0, vocab - 1));
  ScoreOptions options;
  const Outputs outputs = score_all(head, data.hidden_view(), ids, {}, options);
  RowFigures figures;
  for_each(rows, [&](std::int64_t n) {
    const std::vector<float> z = oracle_logits(data.hidden_row(n), data.weight_values, cols);
    const std::int64_t id = ids[static_cast<std::size_t>(n)];
    const auto right = row_is_right(outputs, n, z, id);
    if (!right) ADD_FAILURE() << right.message();
    Outputs none(0);
    figures.add(n == 0 ? outputs : none, 1, static_cast<bool>(right));
    figures.add(nearness_of(z, std::vector<std::int64_t>{id}));
  });
  figures.expect_right("vocabulary of 151936", 100);
  figures.print_nearness();
}

TEST(Long, AllRowsOfTheExample) {
  const std::string examples = ISOLOGIT_EXAMPLES;
  const Result<detail::io::Checkpoint> checkpoint = detail::io::open_checkpoint(examples + "/tiny-qwen3");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const Result<detail::io::Captured> captured =
      detail::io::read_captured(examples + "/captured/tiny-qwen3.safetensors");
  ASSERT_TRUE(captured) << captured.error().message;
  const Head& head = checkpoint->head;
  const Outputs outputs = score_all(head, captured->hidden, captured->token_ids, {}, {});
  const auto cols = static_cast<std::size_t>(head.weight.cols);
  const std::vector<double> weight =
      oracle::decode_all(head.weight.dtype, head.weight.data, static_cast<std::size_t>(head.vocab_size) * cols);
  const std::vector<double> hidden = oracle::decode_all(captured->hidden.dtype, captured->hidden.data,
                                                        static_cast<std::size_t>(captured->hidden.rows) * cols);
  ASSERT_EQ(captured->hidden.row_stride, captured->hidden.cols);
  RowFigures figures;
  std::atomic<bool> first = true;
  for_each(captured->hidden.rows, [&](std::int64_t n) {
    const std::int64_t id = captured->token_ids[static_cast<std::size_t>(n)];
    if (id == -100) return;
    const std::vector<float> z = oracle_logits(&hidden[static_cast<std::size_t>(n) * cols], weight, cols);
    const auto right = row_is_right(outputs, n, z, id);
    if (!right) ADD_FAILURE() << right.message();
    Outputs none(0);
    figures.add(first.exchange(false) ? outputs : none, 1, static_cast<bool>(right));
    figures.add(nearness_of(z, std::vector<std::int64_t>{id}));
  });
  figures.expect_right("example", 2032);
  figures.print_nearness();
}

}  // namespace
}  // namespace isologit::testing_score
