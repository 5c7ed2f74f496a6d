#include "cli/bench_crossovers.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "base/aligned.hpp"
#include "base/thread_pool.hpp"
#include "cli/bench_run.hpp"

namespace isologit::detail::cli {
namespace {

std::vector<const kernels::Target*> exact_kernels() {
  std::vector<const kernels::Target*> found;
  for (const kernels::Entry& entry : kernels::registry()) {
    if (entry.arithmetic == Arithmetic::exact && entry.instruction_set != "any" && entry.why_not().empty()) {
      found.push_back(&entry.target());
    }
  }
  return found;
}

// All tiles of one block by this kernel and no other.
void make_tiles(const Head& head, const MatrixView& hidden, const kernels::Target& kernel, int threads) {
  const std::int64_t rows = hidden.rows;
  const std::int64_t tile = kernel.tile_vocab();
  base::AlignedBuffer prepared(kernel.prepared_bytes(rows, hidden.cols));
  std::vector<std::int64_t> ids(static_cast<std::size_t>(rows));
  std::iota(ids.begin(), ids.end(), 0);
  for (const std::int64_t i : ids) kernel.prepare(hidden, i, i, rows, prepared.as<std::byte>());
  struct Own {
    base::AlignedBuffer scratch;
    std::vector<float> logits;
    kernels::Counts counts;
  };
  std::vector<Own> workers(static_cast<std::size_t>(threads));
  for (Own& own : workers) {
    own.scratch = base::AlignedBuffer(kernel.scratch_bytes(rows, hidden.cols));
    own.logits.resize(static_cast<std::size_t>(rows * tile));
  }
  const kernels::Block block{&hidden, ids.data(), rows, prepared.as<std::byte>()};
  // Neighbouring tiles to a thread, as tiles::Tiles has it: kernels fetch the next one's weight.
  const std::int64_t vocab = head.vocab_size;
  const std::int64_t stride = 4 * tile;
  base::parallel_for(threads, (vocab + stride - 1) / stride, [&](int worker, std::int64_t i) {
    Own& own = workers[static_cast<std::size_t>(worker)];
    for (std::int64_t first = i * stride; first < std::min((i + 1) * stride, vocab); first += tile) {
      kernel.logits(block, {&head.weight, &head.bias, first, std::min(tile, vocab - first)}, own.logits.data(),
                    own.scratch.as<std::byte>(), own.counts);
    }
  });
}

}  // namespace

std::vector<ByRows> measure_by_rows(const Head& head, const MatrixView& hidden, int threads, double enough,
                                    const std::function<void(double)>& told) {
  const std::vector<const kernels::Target*> kernels = exact_kernels();
  std::vector<Timed> calls;
  for (const kernels::Target* kernel : kernels) {
    for (const std::int64_t rows : kCrossoverRows) {
      const MatrixView some{hidden.data, hidden.dtype, rows, hidden.cols, hidden.row_stride};
      calls.push_back({[&head, some, kernel, threads] { make_tiles(head, some, *kernel, threads); }, {}});
    }
  }
  time_in_turn(calls, enough, told);
  std::vector<ByRows> found;
  auto call = calls.cbegin();
  for (const kernels::Target* kernel : kernels) {
    ByRows& one = found.emplace_back(ByRows{kernel, {}});
    while (one.seconds.size() < std::size(kCrossoverRows)) one.seconds.push_back((call++)->seconds.front());
  }
  return found;
}

std::optional<std::int64_t> crossover(const std::vector<double>& first, const std::vector<double>& second) {
  std::optional<std::int64_t> from;
  for (std::size_t i = first.size(); i-- > 0 && first[i] < second[i];) from = kCrossoverRows[i];
  return from;
}

}  // namespace isologit::detail::cli
