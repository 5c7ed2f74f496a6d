#include "given/log_softmax.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "base/thread_pool.hpp"
#include "exact/rounding.hpp"
#include "fold/distribution.hpp"
#include "fold/log_softmax.hpp"
#include "fold/normalizer.hpp"
#include "fold/pair_sums.hpp"
#include "given/row.hpp"

namespace isologit::detail::given {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

class LogSoftmaxRow {
 public:
  LogSoftmaxRow(const GivenLogitsRequest& request, std::int64_t row, const kernels::FoldLoops& loops)
      : row_(request.logits, request.temperatures, row),
        loops_(loops),
        to_(request.log_softmax + row * request.log_softmax_row_stride) {}

  void fill(float value) const { std::fill_n(to_, row_.vocab(), value); }

  // Writes the row on `threads` threads and returns the ids that stay open.
  std::vector<std::int64_t> run(int threads) const {
    std::vector<std::int64_t> open;
    const fold::Distribution state = sums(threads);
    if (!state.ordinary()) {
      fill(exact::quiet_nan());
      return open;
    }
    const auto known = excess(state);
    if (known) open = write(threads, state.top, *known);
    if (!known || !open.empty()) write_wider(state.top, known.has_value(), open);
    return open;
  }

 private:
  // work(part, first tile, last tile) for as many parts of the row as there are threads.
  template <class Work>
  void split(int threads, Work work) const {
    base::parallel_for(threads, threads, [&](int, std::int64_t part) {
      work(static_cast<std::size_t>(part), row_.tiles() * part / threads, row_.tiles() * (part + 1) / threads);
    });
  }

  fold::Distribution sums(int threads) const {
    std::vector<fold::Distribution> parts(static_cast<std::size_t>(threads));
    split(threads, [&](std::size_t part, std::int64_t begin, std::int64_t end) {
      fold::Distribution& state = parts[part];
      state.mass_alone = true;
      alignas(64) float tile[kTile];  // absorb writes to it
      row_.for_each_tile(begin, end, [&](const float* z, std::int64_t count, std::int64_t first) {
        std::memcpy(tile, z, sizeof tile);
        state.absorb(loops_, tile, count, first);
      });
    });
    for (std::size_t part = 1; part < parts.size(); ++part) parts[0].merge(loops_, parts[part]);
    return parts[0];
  }

  // From the f64 sums; nothing where these could not hold it.
  static std::optional<kernels::Excess> excess(const fold::Distribution& state) {
    fold::RelativeSums sums;
    if (!relative_sums(state, sums)) return std::nullopt;
    return fold::Normalizer(sums, state.top, state.above_minus_inf > 1, 3).excess();
  }

  // Writes what the excess proves and returns the other ids.
  std::vector<std::int64_t> write(int threads, float top, const kernels::Excess& excess) const {
    std::vector<std::vector<std::int64_t>> parts(static_cast<std::size_t>(threads));
    split(threads, [&](std::size_t part, std::int64_t begin, std::int64_t end) {
      row_.for_each_tile(begin, end, [&](const float* z, std::int64_t count, std::int64_t first) {
        write_tile(z, count, first, top, excess, parts[part]);
      });
    });
    for (std::size_t part = 1; part < parts.size(); ++part) {
      parts[0].insert(parts[0].end(), parts[part].begin(), parts[part].end());
    }
    return std::move(parts[0]);
  }

  void write_tile(const float* z, std::int64_t count, std::int64_t first, float top, const kernels::Excess& excess,
                  std::vector<std::int64_t>& open) const {
    float last[kTile];  // the row's last tile may end within a group
    std::int32_t unproven[kTile];
    float* logprobs = count == kTile ? to_ + first : last;
    const std::int64_t left = loops_.log_softmax(z, kTile, top, excess, logprobs, unproven);
    for (std::int64_t i = 0; i < left && unproven[i] < count; ++i) {  // what follows is padding
      const std::int32_t j = unproven[i];
      if (z[j] == kMinusInf) {
        logprobs[j] = kMinusInf;
      } else if (const auto proven = fold::logprob(z[j], top, excess)) {
        logprobs[j] = *proven;
      } else {
        open.push_back(first + j);
      }
    }
    if (logprobs == last) std::copy_n(last, count, to_ + first);
  }

  // The same with sums in pairs of doubles, of the ids in `open`, or of all where the excess was not known.
  void write_wider(float top, bool known, std::vector<std::int64_t>& open) const {
    fold::PairSums pairs(top);
    row_.for_each_tile(0, row_.tiles(),
                       [&](const float* z, std::int64_t count, std::int64_t) { pairs.absorb(z, count); });
    fold::RowSums row_sums;
    if (!pairs.finish(row_sums)) {
      for (std::int64_t id = 0; !known && id < row_.vocab(); ++id) open.push_back(id);
      return;
    }
    fold::RelativeSums sums;
    sums.rest = exact::add(row_sums.mass, exact::Ball::exact(static_cast<double>(row_sums.ties - 1)), fold::kPairLimbs);
    const bool several = row_sums.others || row_sums.ties > 1;
    const fold::Normalizer normalizer(sums, top, several, fold::kPairLimbs);
    if (!known) open = write(1, top, normalizer.excess());
    std::erase_if(open, [&](std::int64_t id) {
      const auto logprob = normalizer.logprob(row_.logit(id));
      if (logprob) to_[id] = *logprob;
      return logprob.has_value();
    });
  }

  GivenRow row_;
  const kernels::FoldLoops& loops_;
  float* to_;
};

}  // namespace

LogSoftmaxDone log_softmax(const GivenLogitsRequest& request, std::span<const std::uint8_t> selected,
                           const kernels::FoldLoops& loops, int threads, const std::function<bool(double)>& progress) {
  LogSoftmaxDone done;
  std::mutex mutex;
  const auto run = [&](std::int64_t i, int threads_of_row) {
    const LogSoftmaxRow row(request, i, loops);
    if (selected[static_cast<std::size_t>(i)] == 0) {
      row.fill(0);
      return;
    }
    std::vector<std::int64_t> open = row.run(threads_of_row);
    if (open.empty()) return;
    const std::lock_guard lock(mutex);
    done.open.push_back({i, std::move(open)});
  };
  const std::int64_t rows = request.logits.rows;
  if (rows >= threads) {
    done.cancelled = !base::parallel_for(
        threads, rows, [&](int, std::int64_t i) { run(i, 1); }, progress);
    return done;
  }
  // Few rows: all threads on one after the other.
  for (std::int64_t i = 0; i < rows && !done.cancelled; ++i) {
    run(i, threads);
    done.cancelled = progress && !progress(static_cast<double>(i + 1) / static_cast<double>(rows));
  }
  return done;
}

}  // namespace isologit::detail::given
