// isologit::sample: a first pass for every row, then further passes for the rows that ask for one
// (sample/sample_row.hpp).
#include "isologit/sample.hpp"

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "base/cpu.hpp"
#include "base/parties.hpp"
#include "base/thread_pool.hpp"
#include "fold/distribution.hpp"
#include "fold/top_k.hpp"
#include "sample/gumbel.hpp"
#include "sample/sample.hpp"
#include "sample/sample_row.hpp"
#include "sample/validate.hpp"
#include "tiles/call.hpp"
#include "tiles/row_selection.hpp"
#include "tiles/support.hpp"
#include "tiles/tiles.hpp"
#include "tiles/transforms.hpp"

namespace isologit {
namespace detail::sample {
namespace {

template <class T>
T value_at(std::span<const T> values, std::int64_t row, T absent) {
  if (values.empty()) return absent;
  return values.size() == 1 ? values[0] : values[static_cast<std::size_t>(row)];
}

// Temperature 0 is greedy at temperature 1.
std::vector<float> divisors(std::span<const float> temperatures) {
  std::vector<float> result(temperatures.begin(), temperatures.end());
  std::replace(result.begin(), result.end(), 0.0F, 1.0F);
  return result;
}

// A search takes some 80 KB a row and thread; no more than this many at a time.
constexpr std::int64_t kSearches = 512;

// A row that goes on to further passes.
struct Pending {
  std::int64_t index;
  SampleRow row;
  int passes;
};

// What one thread gathers of a row in the first pass.
struct Survey {
  fold::Distribution support;
  std::optional<fold::TopK> list;
  Contenders contenders;

  explicit Survey(const SampleRow& row) : contenders(row.plan().draw) {
    support.summed = row.sums();
    if (row.listed() > 0) list.emplace(row.listed());
  }

  void merge(const kernels::FoldLoops& loops, const Survey& other) {
    support.merge(loops, other.support);
    if (list) list->merge(*other.list);
    contenders.merge(other.contenders);
  }
  void write(base::ByteWriter& bytes) const {
    support.write(bytes);
    if (list) list->write(bytes);
    contenders.write(bytes);
  }
  // False when the bytes are not those of a survey of the same row.
  bool merge_read(const kernels::FoldLoops& loops, const SampleRow& row, base::ByteReader& bytes) {
    Survey other(row);
    if (!other.support.read(bytes) || (list && !other.list->read(bytes)) || !other.contenders.merge_read(bytes)) {
      return false;
    }
    merge(loops, other);
    return true;
  }
};

class Sampler {
 public:
  Sampler(const Head& head, const SampleRequest& request, const ScoreOptions& options, const kernels::Target& target,
          int threads, std::span<fold::Candidate> cut_ends)
      : request_(request),
        options_(options),
        parties_(options.peers, head.vocab_size),
        divisors_(divisors(request.temperatures)),
        tiles_({head, parties_.first_id()}, request.hidden, divisors_, target, threads),
        support_(request.support, parties_.vocab_size()),
        wanted_{request.logprobs != nullptr, request.cut_logprobs != nullptr, request.log_kept_cut != nullptr},
        cut_ends_(cut_ends) {
    report_.kernel = target.name();
    report_.arithmetic = target.arithmetic();
    report_.threads = threads;
    report_.processors = base::available_processors();
    const std::vector<std::uint8_t> selected =
        tiles::selected_rows({request.hidden.rows, request.row_mask, request.row_list, request.use_row_list});
    for (std::int64_t i = 0; i < request.hidden.rows; ++i) {
      if (selected[static_cast<std::size_t>(i)] != 0) {
        rows_.push_back(i);
      } else {
        store(i, {0, 0, 0, 0, kEnd});
      }
    }
    report_.rows = static_cast<std::int64_t>(rows_.size());
  }

  Result<SampleReport> run() {
    const std::size_t block = agreed(tiles_.block_rows(report_.rows));
    further_block_ =
        agreed(std::min(tiles_.target().block_rows(), std::max<std::int64_t>(kSearches / tiles_.threads(), 1)));
    std::vector<Pending> pending;
    for (std::size_t begin = 0; begin < rows_.size(); begin += block) {
      const std::size_t count = std::min(block, rows_.size() - begin);
      share_before_ = static_cast<double>(begin) / static_cast<double>(rows_.size());
      share_ = static_cast<double>(count) / static_cast<double>(rows_.size());
      if (!first_pass(std::span(rows_).subspan(begin, count), pending)) return cancelled();
      share_before_ += share_;
      share_ = 0;
      // The state of waiting rows is bounded by that of two blocks.
      while (pending.size() >= block) {
        if (!further_pass(pending)) return cancelled();
      }
    }
    while (!pending.empty()) {
      if (!further_pass(pending)) return cancelled();
    }
    report_.logit_fallbacks = tiles_.fallbacks();
    return report_;
  }

 private:
  static tl::unexpected<Error> cancelled() { return fail(StatusCode::cancelled, "cancelled by the progress callback"); }

  // Parties that share a vocabulary take the same rows at a time.
  std::size_t agreed(std::int64_t rows) const { return static_cast<std::size_t>(parties_.least(rows)); }

  // Runs fold(worker, tile) for each tile of each of the rows, whose logits outside the support are -inf.
  bool pass(std::span<const std::int64_t> rows, const std::function<void(int, const tiles::RowTile&)>& fold) {
    tiles_.take(rows);
    const auto fold_masked = [&](int worker, const tiles::RowTile& tile) {
      const tiles::Masked masked(support_, rows[tile.row], tile);
      fold(worker, tile);
    };
    return tiles_.run(fold_masked, [&](double done) {
      return !options_.progress || options_.progress(share_before_ + share_ * done);
    });
  }

  // Runs work(i) for i in [0, count) on all threads.
  void for_each(std::size_t count, const std::function<void(std::size_t)>& work) const {
    base::parallel_for(tiles_.threads(), static_cast<std::int64_t>(count),
                       [&](int, std::int64_t i) { work(static_cast<std::size_t>(i)); });
  }

  // Puts those of all parties in the place of each one's states: make(i) is an empty one, merge_read(state, i, bytes)
  // adds what a party wrote.
  template <class State, class Make, class MergeRead>
  void exchange(std::vector<State>& states, Make make, MergeRead merge_read) const {
    if (!parties_.several()) return;
    base::ByteWriter own;
    for (const State& state : states) state.write(own);
    std::vector<State> all;
    for (std::size_t i = 0; i < states.size(); ++i) all.push_back(make(i));
    parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (!merge_read(all[i], i, bytes)) return false;
      }
      return true;
    });
    states = std::move(all);
  }

  SampleRow row_of(std::int64_t i) const {
    const kernels::Draw draw{value_at(request_.seeds, i, std::uint64_t{0}),
                             value_at(request_.sequence_ids, i, std::uint64_t{0}),
                             value_at(request_.positions, i, std::uint32_t{0})};
    const Cuts cuts{value_at(request_.min_p, i, 0.0F), value_at(request_.top_k, i, std::int64_t{0}),
                    value_at(request_.top_p, i, 1.0F)};
    return {draw, cuts, tiles::temperature_of(request_.temperatures, i) == 0, wanted_};
  }

  bool first_pass(std::span<const std::int64_t> indices, std::vector<Pending>& pending) {
    const std::size_t count = indices.size();
    const auto threads = static_cast<std::size_t>(tiles_.threads());
    std::vector<Pending> rows;
    rows.reserve(count);
    for (const std::int64_t index : indices) rows.push_back({index, row_of(index), 1});
    std::vector<Survey> surveys;
    surveys.reserve(threads * count);
    for (std::size_t t = 0; t < threads; ++t) {
      for (const Pending& one : rows) surveys.emplace_back(one.row);
    }
    const bool finished = pass(indices, [&](int worker, const tiles::RowTile& tile) {
      Survey& survey = surveys[static_cast<std::size_t>(worker) * count + tile.row];
      survey.support.absorb(tiles_.loops(), tile.logits, tile.count, tile.first_id);
      if (survey.list) survey.list->absorb(tiles_.loops(), tile.logits, nullptr, tile.count, tile.first_id);
      if (rows[tile.row].row.draws_at_once()) {
        survey.contenders.absorb(tiles_.loops(), tile.logits, tile.count, tile.first_id);
      }
    });
    if (!finished) return false;
    for_each(count, [&](std::size_t i) {
      for (std::size_t t = 1; t < threads; ++t) surveys[i].merge(tiles_.loops(), surveys[t * count + i]);
    });
    surveys.erase(surveys.begin() + static_cast<std::ptrdiff_t>(count), surveys.end());
    exchange(
        surveys, [&](std::size_t i) { return Survey(rows[i].row); },
        [&](Survey& survey, std::size_t i, base::ByteReader& bytes) {
          return survey.merge_read(tiles_.loops(), rows[i].row, bytes);
        });
    for_each(count, [&](std::size_t i) {
      Survey& all = surveys[i];
      rows[i].row.survey(all.support, all.list ? all.list->sorted() : std::vector<fold::Candidate>{}, all.contenders);
    });
    for (Pending& one : rows) {
      if (one.row.done()) {
        finish(one);
      } else {
        ++report_.further_rows;
        pending.push_back(std::move(one));
      }
    }
    return true;
  }

  // One more pass for the first block of waiting rows.
  bool further_pass(std::vector<Pending>& pending) {
    const auto threads = static_cast<std::size_t>(tiles_.threads());
    const std::size_t count = std::min(pending.size(), further_block_);
    std::vector<std::int64_t> indices;
    for (std::size_t i = 0; i < count; ++i) indices.push_back(pending[i].index);
    std::vector<SamplePass> passes;
    for (std::size_t t = 0; t < threads; ++t) {
      for (std::size_t i = 0; i < count; ++i) passes.emplace_back(pending[i].row.plan());
    }
    const bool finished = pass(indices, [&](int worker, const tiles::RowTile& tile) {
      passes[static_cast<std::size_t>(worker) * count + tile.row].absorb(tiles_.loops(), tile.logits, tile.count,
                                                                         tile.first_id);
    });
    if (!finished) return false;
    for_each(count, [&](std::size_t i) {
      for (std::size_t t = 1; t < threads; ++t) passes[i].merge(passes[t * count + i]);
    });
    passes.erase(passes.begin() + static_cast<std::ptrdiff_t>(count), passes.end());
    exchange(
        passes, [&](std::size_t i) { return SamplePass(pending[i].row.plan()); },
        [](SamplePass& pass, std::size_t, base::ByteReader& bytes) { return pass.merge_read(bytes); });
    for_each(count, [&](std::size_t i) {
      ++pending[i].passes;
      pending[i].row.advance(passes[i]);
    });
    std::vector<Pending> waiting;
    for (std::size_t i = 0; i < pending.size(); ++i) {
      if (i < count && pending[i].row.done()) {
        finish(pending[i]);
      } else {
        waiting.push_back(std::move(pending[i]));
      }
    }
    pending = std::move(waiting);
    return true;
  }

  void store(std::int64_t row, const SampleResults& results) const {
    if (request_.ids != nullptr) request_.ids[row] = results.id;
    if (request_.logprobs != nullptr) request_.logprobs[row] = results.logprob;
    if (request_.cut_logprobs != nullptr) request_.cut_logprobs[row] = results.cut_logprob;
    if (request_.log_kept_cut != nullptr) request_.log_kept_cut[row] = results.log_kept_cut;
    if (!cut_ends_.empty()) cut_ends_[static_cast<std::size_t>(row)] = results.cut_end;
  }

  void finish(const Pending& one) {
    store(one.index, one.row.results());
    report_.rounds = std::max(report_.rounds, one.passes);
    report_.undecided_rows += one.row.plan().limbs > 0;
    report_.second_words += one.row.contenders().second_words();
    report_.exact_draws += one.row.contenders().exact();
  }

  const SampleRequest& request_;
  const ScoreOptions& options_;
  base::Parties parties_;
  std::vector<float> divisors_;
  tiles::Tiles tiles_;
  tiles::SupportReader support_;
  std::vector<std::int64_t> rows_;  // those to draw for
  SampleRow::Wanted wanted_;
  std::span<fold::Candidate> cut_ends_;
  std::size_t further_block_ = 0;  // rows that a further pass takes at most
  double share_before_ = 0;        // of all rows, done before the block under way, for the progress callback
  double share_ = 0;               // of all rows, in the block under way
  SampleReport report_;
};

}  // namespace

Result<SampleReport> run(const Head& head, const SampleRequest& request, const ScoreOptions& options,
                         const kernels::Target& target, std::span<fold::Candidate> cut_ends) {
  const int threads = options.threads > 0 ? options.threads : base::available_threads();
  return Sampler(head, request, options, target, threads, cut_ends).run();
}

}  // namespace detail::sample

Result<SampleReport> sample(const Head& head, const SampleRequest& request, const ScoreOptions& options) {
  const auto work = [&](const ScoreOptions& own) -> Result<SampleReport> {
    if (auto checked = detail::sample::validate(head, request, own); !checked) return tl::unexpected(checked.error());
    const auto target = detail::kernels::choose(own.kernel, own.arithmetic);
    if (!target) return tl::unexpected(target.error());
    return detail::sample::run(head, request, own, **target);
  };
  return detail::tiles::call(options, "sampling; nothing useful is in the output buffers", work);
}

}  // namespace isologit
