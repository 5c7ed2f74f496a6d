// The entry points: validation, the choice of a kernel, and the rounds of score/rounds.hpp.
#include "isologit/score.hpp"

#include <utility>

#include "base/cpu.hpp"
#include "base/parties.hpp"
#include "score/bf16_logits.hpp"
#include "score/rounds.hpp"
#include "score/validate.hpp"
#include "tiles/call.hpp"
#include "tiles/validate.hpp"

namespace isologit {
namespace {

// What changes nothing when it is refused is not stopped half way.
ScoreOptions uninterrupted(ScoreOptions options) {
  options.progress = {};
  return options;
}

constexpr std::string_view kScoring = "scoring; nothing useful is in the output buffers";

int threads_of(const ScoreOptions& options) {
  return options.threads > 0 ? options.threads : detail::base::available_threads();
}

}  // namespace

Result<PartialScore> PartialScore::begin(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                                         const ScoreRequest& request, const ScoreOptions& options) {
  return detail::tiles::call(options, kScoring, [&](const ScoreOptions&) -> Result<PartialScore> {
    if (auto checked = detail::score::validate(vocab_size, cols, transforms, request, options); !checked) {
      return tl::unexpected(checked.error());
    }
    if (options.peers) {
      return fail(StatusCode::invalid_argument,
                  "peers: given to a partial score; expected none, since its caller exchanges the states");
    }
    const auto target = detail::kernels::choose(options.kernel, options.arithmetic);
    if (!target) return tl::unexpected(target.error());
    return PartialScore(std::make_unique<detail::score::Rounds>(vocab_size, cols, transforms, request, options,
                                                                **target, threads_of(options)));
  });
}

PartialScore::PartialScore(std::unique_ptr<detail::score::Rounds> rounds) : rounds_(std::move(rounds)) {}
PartialScore::PartialScore(PartialScore&&) noexcept = default;
PartialScore& PartialScore::operator=(PartialScore&&) noexcept = default;
PartialScore::~PartialScore() = default;

Result<void> PartialScore::absorb(const Shard& shard) {
  return detail::tiles::call(rounds_->options(), kScoring, [&](const ScoreOptions& options) -> Result<void> {
    if (auto checked = rounds_->validate(shard); !checked) return checked;
    return rounds_->absorb(shard, options.progress);
  });
}

Result<std::vector<std::byte>> PartialScore::state() const {
  return detail::tiles::call(uninterrupted(rounds_->options()), kScoring,
                             [&](const ScoreOptions&) -> Result<std::vector<std::byte>> { return rounds_->state(); });
}

Result<void> PartialScore::merge(std::span<const std::byte> state) {
  return detail::tiles::call(uninterrupted(rounds_->options()), kScoring,
                             [&](const ScoreOptions&) { return rounds_->merge(state); });
}

Result<bool> PartialScore::finish_round() {
  return detail::tiles::call(rounds_->options(), kScoring,
                             [&](const ScoreOptions&) { return rounds_->finish_round(); });
}

const ScoreReport& PartialScore::report() const { return rounds_->report(); }

Result<ScoreReport> score(const Head& head, const ScoreRequest& request, const ScoreOptions& options) {
  return detail::tiles::call(options, kScoring, [&](const ScoreOptions& own) -> Result<ScoreReport> {
    const detail::base::Parties parties(own.peers, head.vocab_size);
    const Shard shard{head, parties.first_id()};
    const std::int64_t cols = head.weight.cols;
    auto checked = detail::tiles::validate_shard(shard, parties.vocab_size(), cols, head.transforms);
    if (checked) checked = detail::score::validate(parties.vocab_size(), cols, head.transforms, request, own);
    if (checked) checked = detail::score::validate_overlap(head, request);
    if (!checked) return tl::unexpected(checked.error());
    const auto target = detail::kernels::choose(own.kernel, own.arithmetic);
    if (!target) return tl::unexpected(target.error());
    if (detail::score::serves_bf16(head, request, own, **target)) {
      return detail::score::bf16_logits(head, request, own, **target, threads_of(own));
    }
    return detail::score::run(head, request, own, **target, threads_of(own));
  });
}

}  // namespace isologit
