// The entry points: validation, the choice of a kernel, and the rounds of head/rounds.hpp.
#include "isologit/score.hpp"

#include <new>
#include <utility>

#include "base/cpu.hpp"
#include "head/rounds.hpp"
#include "head/validate.hpp"

namespace isologit {
namespace {

tl::unexpected<Error> out_of_memory() {
  return fail(StatusCode::out_of_memory, "out of memory while scoring; nothing useful is in the output buffers");
}

}  // namespace

Result<PartialScore> PartialScore::begin(std::int64_t vocab_size, std::int64_t cols, const Transforms& transforms,
                                         const ScoreRequest& request, const ScoreOptions& options) {
  if (auto checked = head::validate(vocab_size, cols, transforms, request, options); !checked) {
    return tl::unexpected(checked.error());
  }
  const Result<const dot::Kernel*> kernel = dot::choose(options.kernel, options.arithmetic);
  if (!kernel) return tl::unexpected(kernel.error());
  const int threads = options.threads > 0 ? options.threads : base::available_threads();
  try {
    return PartialScore(std::make_unique<Rounds>(vocab_size, cols, transforms, request, options, **kernel, threads));
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

PartialScore::PartialScore(std::unique_ptr<Rounds> rounds) : rounds_(std::move(rounds)) {}
PartialScore::PartialScore(PartialScore&&) noexcept = default;
PartialScore& PartialScore::operator=(PartialScore&&) noexcept = default;
PartialScore::~PartialScore() = default;

Result<void> PartialScore::absorb(const Shard& shard) {
  try {
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
  if (auto checked = head::validate_shard(whole, head.vocab_size, head.weight.cols, head.transforms); !checked) {
    return tl::unexpected(checked.error());
  }
  auto partial = PartialScore::begin(head.vocab_size, head.weight.cols, head.transforms, request, options);
  if (!partial) return tl::unexpected(partial.error());
  for (;;) {
    if (auto absorbed = partial->absorb(whole); !absorbed) return tl::unexpected(absorbed.error());
    const Result<bool> finished = partial->finish_round();
    if (!finished) return tl::unexpected(finished.error());
    if (*finished) return partial->report();
  }
}

}  // namespace isologit
