// Scores a checkpoint with its captured rows and measures the memory that this takes: anonymous memory, which is all
// but the mapped files. Fails when it reaches 300 MB, or when one of a few rows differs from the oracle.
// Usage: score_full_size MODEL, a folder as examples/tiny-qwen3/make.py full-size writes it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>

#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

constexpr std::int64_t limit_kb = 300'000'000 / 1024;

// A line of /proc/self/status, in KiB.
std::int64_t status_kb(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != key + ":") continue;
    std::int64_t kb = 0;
    status >> kb;
    return kb;
  }
  return -1;
}

bool rows_match(const Head& head, const detail::io::Captured& captured, const Outputs& outputs) {
  const auto cols = static_cast<std::size_t>(head.weight.cols);
  const std::size_t size = dtype_size(head.weight.dtype);
  bool match = true;
  for (const std::int64_t n : {std::int64_t{0}, captured.hidden.rows - 1}) {
    const auto* row = static_cast<const char*>(captured.hidden.data) +
                      n * captured.hidden.row_stride * static_cast<std::int64_t>(dtype_size(captured.hidden.dtype));
    const std::vector<double> hidden = oracle::decode_all(captured.hidden.dtype, row, cols);
    std::vector<float> z;
    for (std::int64_t v = 0; v < head.vocab_size; ++v) {
      const auto* from = static_cast<const char*>(head.weight.data) + static_cast<std::size_t>(v) * cols * size;
      const std::vector<double> weight = oracle::decode_all(head.weight.dtype, from, cols);
      z.push_back(oracle::logit(hidden.data(), weight.data(), cols));
    }
    const auto right = row_is_right(outputs, n, z, captured.token_ids[static_cast<std::size_t>(n)]);
    std::printf("row %lld: %s %s\n", static_cast<long long>(n), right ? "as the oracle's" : "WRONG", right.message());
    match = match && right;
  }
  return match;
}

int run(const std::string& model) {
  const Result<detail::io::Checkpoint> checkpoint = detail::io::open_checkpoint(model);
  const Result<detail::io::Captured> captured = detail::io::read_captured(model + "/captured.safetensors");
  if (!checkpoint || !captured) {
    std::fprintf(stderr, "%s\n", (!checkpoint ? checkpoint.error() : captured.error()).message.c_str());
    return 1;
  }
  const std::int64_t before = status_kb("RssAnon");
  std::int64_t peak = before;
  ScoreOptions options;
  options.progress = [&](double) {
    peak = std::max(peak, status_kb("RssAnon"));
    return true;
  };
  const auto start = std::chrono::steady_clock::now();
  const Outputs outputs = score_all(checkpoint->head, captured->hidden, captured->token_ids, {}, options);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const Head& head = checkpoint->head;
  std::printf("%lld rows, weight %lld x %lld %s, kernel %s, %d threads: %.1f s\n",
              static_cast<long long>(outputs.report.rows), static_cast<long long>(head.vocab_size),
              static_cast<long long>(head.weight.cols), std::string(dtype_name(head.weight.dtype)).c_str(),
              outputs.report.kernel.c_str(), outputs.report.threads, seconds.count());
  std::printf("%lld logits by exact accumulation, %lld rows in further rounds, %d rounds\n",
              static_cast<long long>(outputs.report.logit_fallbacks),
              static_cast<long long>(outputs.report.undecided_rows), outputs.report.rounds);
  std::printf("anonymous memory: %.1f MB at most, %.1f MB before; mapped files resident %.1f MB; peak of all %.1f MB\n",
              static_cast<double>(peak) * 1.024e-3, static_cast<double>(before) * 1.024e-3,
              static_cast<double>(status_kb("RssFile")) * 1.024e-3, static_cast<double>(status_kb("VmHWM")) * 1.024e-3);
  const bool small = before > 0 && peak < limit_kb;
  if (!small) std::printf("FAILED: the limit is 300 MB\n");
  return small && rows_match(head, *captured, outputs) ? 0 : 1;
}

}  // namespace
}  // namespace isologit::testing_score

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: score_full_size MODEL\n");
    return 2;
  }
  return isologit::testing_score::run(arguments[1]);
}
