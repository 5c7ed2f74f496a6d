// isologit::score: a first round in f64 with proven bounds for every row, then exact rounds, each at twice the
// precision of the one before, for the rows it could not decide.
#include "isologit/score.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "base/cpu.hpp"
#include "base/fp_env.hpp"
#include "base/thread_pool.hpp"
#include "fold/distribution.hpp"
#include "fold/exact_distribution.hpp"
#include "fold/finish.hpp"
#include "fold/rank.hpp"
#include "head/stream.hpp"
#include "head/validate.hpp"

namespace isologit {
namespace {

using fold::Distribution;
using fold::ExactDistribution;
using fold::Rank;

// What is kept of a row between rounds.
struct Row {
  std::int64_t index = 0;  // in hidden
  float target = 0;
  Distribution distribution;
};

class Scorer {
 public:
  Scorer(const Head& head, const ScoreRequest& request, const ScoreOptions& options, const dot::Kernel& kernel,
         int threads)
      : request_(request),
        options_(options),
        stream_(head, request.hidden, request.temperatures, kernel, threads),
        ranked_(request.rank != nullptr) {
    report_.kernel = kernel.name();
    report_.threads = threads;
  }

  Result<ScoreReport> run() {
    std::vector<std::int64_t> active;
    for (std::int64_t i = 0; i < request_.hidden.rows; ++i) {
      if (!request_.token_ids.empty() && id_of(i) == request_.ignore_index) {
        store(i, {}, 0, 0);
      } else {
        active.push_back(i);
      }
    }
    report_.rows = static_cast<std::int64_t>(active.size());
    std::vector<Row> undecided;
    for (std::size_t begin = 0; begin < active.size(); begin += block_rows()) {
      const std::size_t end = std::min(begin + block_rows(), active.size());
      share_before_ = static_cast<double>(begin) / static_cast<double>(active.size());
      share_ = static_cast<double>(end - begin) / static_cast<double>(active.size());
      if (!first_round({active.data() + begin, end - begin}, undecided)) return cancelled();
    }
    report_.undecided_rows = static_cast<std::int64_t>(undecided.size());
    share_before_ = 1;
    share_ = 0;
    for (std::size_t limbs = 4; !undecided.empty(); limbs *= 2) {
      ++report_.rounds;
      std::vector<Row> still;
      for (std::size_t begin = 0; begin < undecided.size(); begin += block_rows()) {
        const std::size_t end = std::min(begin + block_rows(), undecided.size());
        if (!exact_round({undecided.data() + begin, end - begin}, limbs, still)) return cancelled();
      }
      undecided = std::move(still);
    }
    report_.logit_fallbacks = stream_.fallbacks();
    return report_;
  }

 private:
  std::size_t block_rows() const { return static_cast<std::size_t>(stream_.block_rows()); }

  std::int64_t id_of(std::int64_t row) const { return request_.token_ids[static_cast<std::size_t>(row)]; }

  static tl::unexpected<Error> cancelled() { return fail(StatusCode::cancelled, "cancelled by the progress callback"); }

  bool stream(std::span<const std::int64_t> rows, const std::function<void(int, const head::LogitTile&)>& fold) {
    return stream_.run(rows, fold, [&](double done) {
      return !options_.progress || options_.progress(share_before_ + share_ * done);
    });
  }

  // Runs work(i) for i in [0, count) on all threads.
  void for_each(std::size_t count, const std::function<void(std::size_t)>& work) {
    std::atomic<std::size_t> next = 0;
    base::parallel(stream_.threads(), [&](int) {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    });
  }

  bool first_round(std::span<const std::int64_t> indices, std::vector<Row>& undecided) {
    const std::size_t count = indices.size();
    const auto threads = static_cast<std::size_t>(stream_.threads());
    std::vector<Row> rows(count);
    std::vector<Distribution> distributions(threads * count);
    std::vector<Rank> ranks(ranked_ ? threads * count : 0);
    for_each(count, [&](std::size_t i) {
      rows[i].index = indices[i];
      if (request_.token_ids.empty()) return;
      const std::int64_t id = id_of(indices[i]);
      rows[i].target = stream_.target(indices[i], id);
      for (std::size_t t = 0; ranked_ && t < threads; ++t) ranks[t * count + i] = {rows[i].target, id, 0};
    });
    const fold::Lanes& lanes = stream_.lanes();
    const bool finished = stream(indices, [&](int worker, const head::LogitTile& tile) {
      const std::size_t first = static_cast<std::size_t>(worker) * count;
      for (std::size_t i = 0; i < count; ++i) {
        float* logits = tile.logits + static_cast<std::int64_t>(i) * tile.stride;
        distributions[first + i].absorb(lanes, logits, tile.count, tile.first_id);
        if (ranked_) ranks[first + i].absorb(lanes, logits, tile.count, tile.first_id);
      }
    });
    if (!finished) return false;
    std::vector<char> decided(count);
    for_each(count, [&](std::size_t i) {
      for (std::size_t t = 1; t < threads; ++t) {
        distributions[i].merge(lanes, distributions[t * count + i]);
        if (ranked_) ranks[i].merge(ranks[t * count + i]);
      }
      rows[i].distribution = distributions[i];
      decided[i] = static_cast<char>(finish_first(rows[i], ranked_ ? ranks[i].before + 1 : 0));
    });
    for (std::size_t i = 0; i < count; ++i) {
      if (decided[i] == 0) undecided.push_back(rows[i]);
    }
    return true;
  }

  bool exact_round(std::span<const Row> rows, std::size_t limbs, std::vector<Row>& undecided) {
    const std::size_t count = rows.size();
    const auto threads = static_cast<std::size_t>(stream_.threads());
    std::vector<std::int64_t> indices;
    std::vector<ExactDistribution> sums(threads * count);
    for (std::size_t i = 0; i < count; ++i) {
      indices.push_back(rows[i].index);
      const Distribution& known = rows[i].distribution;
      for (std::size_t t = 0; t < threads; ++t) sums[t * count + i] = {known.top, known.top_id, limbs, 0, {}};
    }
    const bool finished = stream(indices, [&](int worker, const head::LogitTile& tile) {
      for (std::size_t i = 0; i < count; ++i) {
        sums[static_cast<std::size_t>(worker) * count + i].absorb(
            tile.logits + static_cast<std::int64_t>(i) * tile.stride, tile.count, tile.first_id);
      }
    });
    if (!finished) return false;
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t t = 1; t < threads; ++t) sums[i].merge(sums[t * count + i]);
      if (!finish(rows[i], sums[i].finish(), limbs)) undecided.push_back(rows[i]);
    }
    return true;
  }

  // Ids and ranks are final after the first round; returns whether the floats are as well.
  bool finish_first(const Row& row, std::int64_t rank) {
    const Distribution& state = row.distribution;
    fold::RowResults results;
    const bool special = finish_special(state, results);
    std::int64_t argmax = state.top_id;
    if (state.first_nan >= 0) {
      argmax = state.first_nan;
      rank = 0;
    } else if (state.above_nothing == 0) {
      argmax = -1;
      rank = -1;
    }
    store(row.index, results, argmax, rank);
    if (special || !wants_floats()) return true;
    fold::RelativeSums sums;
    return relative_sums(state, sums) && finish(row, sums, 3);
  }

  bool finish(const Row& row, const fold::RelativeSums& sums, std::size_t limbs) {
    const fold::RowRequest wanted{request_.lse != nullptr, request_.logprobs != nullptr, request_.entropy != nullptr,
                                  row.target};
    const fold::RowResults results =
        fold::finish(sums, row.distribution.top, row.distribution.above_nothing > 1, wanted, limbs);
    if (results.decided) store_floats(row.index, results);
    return results.decided;
  }

  bool wants_floats() const {
    return request_.lse != nullptr || request_.logprobs != nullptr || request_.entropy != nullptr;
  }

  void store_floats(std::int64_t i, const fold::RowResults& results) {
    if (request_.logprobs != nullptr) request_.logprobs[i] = results.logprob;
    if (request_.lse != nullptr) request_.lse[i] = results.lse;
    if (request_.entropy != nullptr) request_.entropy[i] = results.entropy;
  }

  void store(std::int64_t i, const fold::RowResults& results, std::int64_t argmax, std::int64_t rank) {
    store_floats(i, results);
    if (request_.argmax != nullptr) request_.argmax[i] = argmax;
    if (request_.rank != nullptr) request_.rank[i] = rank;
  }

  const ScoreRequest& request_;
  const ScoreOptions& options_;
  head::Stream stream_;
  bool ranked_;
  double share_before_ = 0;  // of all work, done before the block under way, for the progress callback
  double share_ = 0;         // of all work, in the block under way
  ScoreReport report_;
};

}  // namespace

Result<ScoreReport> score(const Head& head, const ScoreRequest& request, const ScoreOptions& options) {
  if (auto checked = head::validate(head, request, options); !checked) return tl::unexpected(checked.error());
  const Result<const dot::Kernel*> kernel = dot::choose(options.kernel);
  if (!kernel) return tl::unexpected(kernel.error());
  const int threads = options.threads > 0 ? options.threads : base::available_threads();
  const base::FpEnvironment environment;
  try {
    return Scorer(head, request, options, **kernel, threads).run();
  } catch (const std::bad_alloc&) {
    return fail(StatusCode::out_of_memory, "out of memory while scoring; nothing useful is in the output buffers");
  }
}

}  // namespace isologit
