#include "cli/bench_run.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <numeric>

#include "base/thread_pool.hpp"

namespace isologit::detail::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& call) {
  const auto start = Clock::now();
  call();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Brings every line of the memory to the processor and looks at a word of each: loads of all of it, in the widest
// registers too, took a third longer on a Xeon than memory did.
std::uint64_t sum_of_lines(const std::byte* from, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kAhead = 8192;  // bytes; without it, as the processor sees fit, half the rate there
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i + kLine <= bytes; i += kLine) {
    __builtin_prefetch(from + std::min(i + kAhead, bytes - kLine));
    std::uint64_t word = 0;
    std::memcpy(&word, from + i, sizeof word);
    sum += word;
  }
  return sum;
}

}  // namespace

double read_rate(std::span<const std::byte> memory, int threads) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  constexpr int kPasses = 5;
  std::atomic<std::uint64_t> sink = 0;  // keeps the reads
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::atomic<std::size_t> next = 0;
    const double seconds = seconds_of([&] {
      base::parallel(threads, [&](int) {
        std::uint64_t sum = 0;
        for (std::size_t at = next.fetch_add(kPiece); at < memory.size(); at = next.fetch_add(kPiece)) {
          sum += sum_of_lines(memory.data() + at, std::min(kPiece, memory.size() - at));
        }
        sink += sum;
      });
    });
    best = std::max(best, static_cast<double>(memory.size()) / seconds);
  }
  return best;
}

double multiply_add_rate(const kernels::Target& kernel, int threads, double enough) {
  constexpr std::int64_t kSteps = 1'000'000;
  constexpr int kPasses = 20;
  double best = 0;
  double spent = 0;
  for (int pass = 0; pass < kPasses && spent < enough; ++pass) {
    std::atomic<std::int64_t> operations = 0;
    const double seconds =
        seconds_of([&] { base::parallel(threads, [&](int) { operations += kernel.multiply_adds(kSteps); }); });
    best = std::max(best, 2 * static_cast<double>(operations) / seconds);
    spent += seconds;
  }
  return best;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown processor";
}

double Timed::median() const {
  const std::size_t middle = seconds.size() / 2;
  return seconds.size() % 2 == 1 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
}

void time_in_turn(std::vector<Timed>& calls, double enough, const std::function<void(double)>& told) {
  constexpr int kLeast = 3;
  constexpr int kMost = 9;
  for (int turn = 0; turn < kMost; ++turn) {
    for (std::size_t i = 0; i < calls.size(); ++i) {
      Timed& timed = calls[i];
      const double spent = std::accumulate(timed.seconds.begin(), timed.seconds.end(), 0.0);
      if (turn < kLeast || spent < enough) timed.seconds.push_back(seconds_of(timed.call));
      told((turn + static_cast<double>(i + 1) / static_cast<double>(calls.size())) / kMost);
    }
  }
  for (Timed& timed : calls) std::sort(timed.seconds.begin(), timed.seconds.end());
}

}  // namespace isologit::detail::cli
