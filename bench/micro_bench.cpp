// The parts that time goes to, one at a time: a tile of logits for each kernel and number of rows, what the folds make
// of it, and a logit by exact accumulation.
#include <benchmark/benchmark.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/aligned.hpp"
#include "cli/bench_data.hpp"
#include "fold/distribution.hpp"
#include "fold/rank.hpp"
#include "kernels/target.hpp"

namespace isologit {
namespace {

constexpr std::int64_t kSize = 4096;

// Hidden rows and one tile of weight rows, random normal bf16.
struct Operands {
  std::vector<std::uint16_t> hidden;
  std::vector<std::uint16_t> weight;
  MatrixView hidden_view;
  MatrixView weight_view;

  Operands(std::int64_t rows, std::int64_t vocab)
      : hidden(detail::cli::normal_bf16(rows * kSize, 1.0F, 1, 1)),
        weight(detail::cli::normal_bf16(vocab * kSize, 0.02F, 2, 1)),
        hidden_view{hidden.data(), DType::bf16, rows, kSize, kSize},
        weight_view{weight.data(), DType::bf16, vocab, kSize, kSize} {}
};

void tile(benchmark::State& state, const detail::kernels::Target& kernel) {
  const std::int64_t rows = std::min(state.range(0), kernel.block_rows());
  const Operands operands(rows, kernel.tile_vocab());
  detail::base::AlignedBuffer prepared(kernel.prepared_bytes(rows, kSize));
  detail::base::AlignedBuffer scratch(kernel.scratch_bytes(rows, kSize));
  std::vector<float> logits(static_cast<std::size_t>(rows * kernel.tile_vocab()));
  std::vector<std::int64_t> indices(static_cast<std::size_t>(rows));
  std::iota(indices.begin(), indices.end(), 0);
  for (const std::int64_t i : indices) {
    kernel.prepare(operands.hidden_view, i, i, rows, prepared.as<std::byte>());
  }
  const detail::kernels::Block block{&operands.hidden_view, indices.data(), rows, prepared.as<std::byte>()};
  const VectorView bias{};
  detail::kernels::Counts counts;
  for (auto _ : state) {
    kernel.logits(block, {&operands.weight_view, &bias, 0, kernel.tile_vocab()}, logits.data(), scratch.as<std::byte>(),
                  counts);
    benchmark::DoNotOptimize(logits.data());
  }
  const auto products = static_cast<double>(rows * kernel.tile_vocab() * kSize);
  state.counters["flop/s"] = benchmark::Counter(2 * products, benchmark::Counter::kIsIterationInvariantRate);
}

void folds(benchmark::State& state, const detail::kernels::Target& kernel) {
  const std::int64_t count = kernel.tile_vocab();
  std::vector<float> logits(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 37 % 101) / 10;
  detail::fold::Distribution distribution;
  detail::fold::Rank rank{5.0F, 7, 0};
  for (auto _ : state) {
    distribution.absorb(kernel.lanes(), logits.data(), count, 0);
    rank.absorb(kernel.lanes(), logits.data(), nullptr, count, 0);
    benchmark::DoNotOptimize(distribution);
    benchmark::DoNotOptimize(rank);
  }
  state.counters["logits/s"] =
      benchmark::Counter(static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate);
}

void exact_logit(benchmark::State& state) {
  const Operands operands(1, 1);
  const std::int64_t row = 0;
  const VectorView bias{};
  for (auto _ : state) {
    benchmark::DoNotOptimize(detail::kernels::exact_logit({&operands.hidden_view, &row, 1, nullptr}, 0,
                                                          {&operands.weight_view, &bias, 0, 1}, 0));
  }
}

void register_all() {
  for (const detail::kernels::Entry& entry : detail::kernels::registry()) {
    if (!entry.why_not().empty()) continue;
    const detail::kernels::Target* kernel = &entry.target();
    const std::string name(entry.name);
    benchmark::RegisterBenchmark(("tile/" + name).c_str(), [kernel](benchmark::State& state) { tile(state, *kernel); })
        ->Arg(1)
        ->Arg(4)
        ->Arg(16)
        ->Arg(120);
    benchmark::RegisterBenchmark(("folds/" + name).c_str(),
                                 [kernel](benchmark::State& state) { folds(state, *kernel); });
  }
  benchmark::RegisterBenchmark("exact_logit", exact_logit);
}

}  // namespace
}  // namespace isologit

int main(int argc, char** argv) {
  isologit::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
