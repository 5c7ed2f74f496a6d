// The entry points: validation, the choice of a kernel, and the rounds of score/rounds.hpp.
#include "isologit/score.hpp"

#include <new>
#include <utility>

#include "base/cpu.hpp"
#include "score/rounds.hpp"
#include "score/validate.hpp"
#include "tiles/validate.hpp"

namespace isologit {
namespace {

tl::unexpected<Error> out_of_memory() {
  return fail(StatusCode::out_of_memory, "out of memory while scoring; nothing useful is in the output buffers");
}

// Of a request that was validated. Throws std::bad_alloc.
Result<std::unique_ptr<detail::score::Rounds>> begin_rounds(std::int64_t vocab_size, std::int64_t cols,
                                                            const Transforms& transforms, const ScoreRequest& request,
                                                            const ScoreOptions& options) {
  const auto target = detail::kernels::choose(options.kernel, options.arithmetic);
  if (!target) return tl::unexpected(target.error());
  const int threads = options.threads > 0 ? options.threads : detail::base::available_threads();
  return std::make_unique<detail::score::Rounds>(vocab_size, cols, transforms, request, options, **target, threads);
}

}  // namespace

Result<PartialScore> PartialScore::begin(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                                         const ScoreRequest& request, const ScoreOptions& options) {
  if (auto checked = detail::score::validate(vocab_size, cols, transforms, request, options); !checked) {
    return tl::unexpected(checked.error());
  }
  try {
    auto rounds = begin_rounds(vocab_size, cols, transforms, request, options);
    if (!rounds) return tl::unexpected(rounds.error());
    return PartialScore(std::move(*rounds));
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

PartialScore::PartialScore(std::unique_ptr<detail::score::Rounds> rounds) : rounds_(std::move(rounds)) {}
PartialScore::PartialScore(PartialScore&&) noexcept = default;
PartialScore& PartialScore::operator=(PartialScore&&) noexcept = default;
PartialScore::~PartialScore() = default;

Result<void> PartialScore::absorb(const Shard& shard) {
  try {
    if (auto checked = rounds_->validate(shard); !checked) return checked;
    return rounds_->absorb(shard);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

Result<std::vector<std::byte>> PartialScore::state() const {
  try {
    return rounds_->state();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

Result<void> PartialScore::merge(std::span<const std::byte> state) {
  try {
    return rounds_->merge(state);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

Result<bool> PartialScore::finish_round() {
  try {
    return rounds_->finish_round();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

const ScoreReport& PartialScore::report() const { return rounds_->report(); }

Result<ScoreReport> score(const Head& head, const ScoreRequest& request, const ScoreOptions& options) {
  const Shard whole{head, 0};
  const std::int64_t cols = head.weight.cols;
  auto checked = detail::tiles::validate_shard(whole, head.vocab_size, cols, head.transforms);
  if (checked) checked = detail::score::validate(head.vocab_size, cols, head.transforms, request, options);
  if (!checked) return tl::unexpected(checked.error());
  try {
    if (checked = detail::score::validate_overlap(head, request); !checked) return tl::unexpected(checked.error());
    auto rounds = begin_rounds(head.vocab_size, cols, head.transforms, request, options);
    if (!rounds) return tl::unexpected(rounds.error());
    for (;;) {
      if (auto absorbed = (*rounds)->absorb(whole); !absorbed) return tl::unexpected(absorbed.error());
      const Result<bool> finished = (*rounds)->finish_round();
      if (!finished) return tl::unexpected(finished.error());
      if (*finished) return (*rounds)->report();
    }
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

}  // namespace isologit
