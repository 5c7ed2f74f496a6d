// isologit::backward: one pass over the vocabulary for the normaliser, of the rows without a summary, then strips of
// dz, from which dweight is made chunk by chunk and dhidden is summed up. Exact sums that stay unproven take one more
// pass.
#include "isologit/backward.hpp"

#include <algorithm>
#include <string_view>

#include "backward/derivatives.hpp"
#include "backward/hidden_sums.hpp"
#include "backward/lora_sums.hpp"
#include "backward/weight_sums.hpp"
#include "base/asking.hpp"
#include "base/cpu.hpp"
#include "base/parties.hpp"
#include "base/text.hpp"
#include "base/thread_pool.hpp"
#include "tiles/call.hpp"

namespace isologit {
namespace detail::backward {
namespace {

// A strip is at most this large unless the threads need more chunks to be busy.
constexpr std::int64_t kStripBytes = std::int64_t{8} << 20;
constexpr std::int64_t kMostChunks = 64;

class Backward {
 public:
  Backward(const Head& head, const BackwardRequest& request, const BackwardOptions& options,
           const kernels::Target& target, int threads)
      : head_(head),
        request_(request),
        options_(options),
        target_(target),
        loops_(target.backward_loops()),
        exact_(loops_ == nullptr || options.arithmetic == Arithmetic::exact),
        threads_(threads),
        parties_(options.peers, head.vocab_size),
        rows_(request, parties_.vocab_size()) {
    report_.kernel = target.name();
    report_.arithmetic = exact_ ? Arithmetic::exact : Arithmetic::fast;
    report_.threads = threads;
    report_.processors = base::available_processors();
    report_.rows = static_cast<std::int64_t>(rows_.active().size());
  }

  Result<BackwardReport> run() {
    clear();
    if (rows_.active().empty()) return report_;
    Derivatives derivatives(head_, request_, rows_, target_, loops_, exact_, threads_, parties_);
    WeightSums weight(head_, request_, rows_.active(), target_, exact_, threads_);
    HiddenSums hidden(head_, request_, rows_.active(), target_, exact_, threads_, parties_);
    const Sums how = loops_ == nullptr ? Sums::defined : exact_ ? Sums::certified : Sums::fast;
    LoraASums lora_a(head_, request_, rows_.active(), how, threads_, parties_);
    LoraBSums lora_b(head_, request_, rows_.active(), how, threads_);
    const double first_pass = request_.summaries.empty() ? 0.3 : 0;
    span(0, first_pass);
    if (!derivatives.normalize(progress())) return cancelled();
    span(first_pass, 1);
    const bool finished = strips(derivatives, [&](std::int64_t first, std::int64_t count, const float* strip) {
      const std::int64_t stride = report_.rows * kChunk;
      base::parallel_for(threads_, count, [&](int worker, std::int64_t i) {
        weight.add_chunk(worker, first + i, strip + i * stride);
        lora_b.add_chunk(first + i, strip + i * stride);
      });
      hidden.add_strip(first, count, strip);
      lora_a.add_strip(first, count, strip);
    });
    if (!finished) return stopped(derivatives);
    derivatives.share_tops();
    if (const std::int64_t row = derivatives.mismatch(true); row >= 0) return contradicted(row);
    hidden.share();
    lora_a.share();
    lora_a.finish();
    hidden.add_low_rank(lora_a.g());
    std::vector<HiddenSums::Open> open = hidden.finish();
    if (!settle(derivatives, hidden, open)) return cancelled();
    report_.logit_fallbacks += derivatives.logit_fallbacks();
    report_.derivative_fallbacks = derivatives.fallbacks();
    report_.sum_fallbacks =
        weight.fallbacks() + lora_a.fallbacks() + lora_b.fallbacks() + static_cast<std::int64_t>(open.size());
    return report_;
  }

 private:
  static tl::unexpected<Error> cancelled() {
    return fail(StatusCode::cancelled, "cancelled by the progress callback; the gradients are of no use");
  }

  static tl::unexpected<Error> contradicted(std::int64_t row) {
    return fail(
        StatusCode::invalid_argument,
        base::concat("summaries[", row,
                     "]: the logits of this row are not those it was made of; expected hidden, "
                     "weight, bias, temperature, support and kernel as in the forward pass, none of them written to "
                     "since. The gradients are of no use"));
  }
  static tl::unexpected<Error> stopped(const Derivatives& derivatives) {
    const std::int64_t row = derivatives.mismatch(false);
    return row >= 0 ? contradicted(row) : cancelled();
  }

  // Rows that do not contribute have a gradient of 0, and so has all else if none does.
  void clear() const {
    const auto zero = [](const GradientOutput& to, std::int64_t rows, std::int64_t columns) {
      const Output output(to);
      if (!output.wanted() || output.accumulates()) return;
      for (std::int64_t r = 0; r < rows; ++r) {
        base::go_on_or_throw();
        for (std::int64_t k = 0; k < columns; ++k) output.store(r, k, 0);
      }
    };
    if (rows_.active().size() < static_cast<std::size_t>(request_.hidden.rows)) {
      zero(request_.dhidden, request_.hidden.rows, head_.weight.cols);
    }
    if (!rows_.active().empty()) return;
    zero(request_.dweight, head_.vocab_size, head_.weight.cols);
    zero(request_.dbias, 1, head_.vocab_size);
    zero(request_.dlora_a, head_.lora.a.rows, head_.weight.cols);
    zero(request_.dlora_b, head_.vocab_size, head_.lora.a.rows);
  }

  // The progress callback sees [from, to) of the whole for what comes next.
  void span(double from, double to) {
    from_ = from;
    share_ = to - from;
  }
  std::function<bool(double)> progress() const {
    return [this](double done) { return !options_.progress || options_.progress(from_ + share_ * done); };
  }

  bool strips(Derivatives& derivatives,
              const std::function<void(std::int64_t, std::int64_t, const float*)>& use) const {
    const auto chunk = static_cast<std::int64_t>(derivatives.rows()) * kChunk;
    const std::int64_t bytes = chunk * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t most =
        std::max(std::clamp<std::int64_t>(kStripBytes / bytes, 1, kMostChunks), std::int64_t{2} * threads_);
    const std::int64_t chunks = std::min(most, std::max<std::int64_t>(derivatives.chunks(), 1));
    const std::int64_t strips = (derivatives.chunks() + chunks - 1) / chunks;
    const std::int64_t most_strips = parties_.greatest(strips);
    base::AlignedBuffer strip(static_cast<std::size_t>(chunks * bytes));
    for (std::int64_t first = 0; first < derivatives.chunks(); first += chunks) {
      const std::int64_t count = std::min(chunks, derivatives.chunks() - first);
      const auto shown = [&](double done) {
        return progress()((static_cast<double>(first) + done * static_cast<double>(count)) /
                          static_cast<double>(derivatives.chunks()));
      };
      if (!derivatives.make(first, count, strip.as<float>(), shown)) return false;
      use(first, count, strip.as<float>());
    }
    for (std::int64_t i = strips; i < most_strips; ++i) derivatives.take_part();
    return true;
  }

  // Elements of dhidden that the certified sums left open: once more over the vocabulary, for their rows only.
  bool settle(const Derivatives& derivatives, const HiddenSums& hidden, std::vector<HiddenSums::Open>& open) {
    if (open.empty()) return true;
    std::vector<std::size_t> which;
    for (const HiddenSums::Open& element : open) {
      if (which.empty() || which.back() != element.row) which.push_back(element.row);
    }
    span(1, 1);
    ActiveRows few = rows_;
    few.keep(which);
    Derivatives again(head_, request_, few, target_, loops_, exact_, threads_, parties_);
    again.take_states(derivatives, which);
    const bool finished = strips(again, [&](std::int64_t first, std::int64_t count, const float* strip) {
      hidden.add_strip(open, which, first, count, strip);
    });
    if (finished) {
      hidden.share(open);
      hidden.finish(open);
    }
    report_.logit_fallbacks += again.logit_fallbacks();
    return finished;
  }

  const Head& head_;
  const BackwardRequest& request_;
  const BackwardOptions& options_;
  const kernels::Target& target_;
  const kernels::BackwardLoops* loops_;
  bool exact_;
  int threads_;
  base::Parties parties_;
  ActiveRows rows_;
  double from_ = 0;
  double share_ = 1;
  BackwardReport report_;
};

}  // namespace
}  // namespace detail::backward

Result<BackwardReport> backward(const Head& head, const BackwardRequest& request, const BackwardOptions& options) {
  const auto work = [&](const BackwardOptions& own) -> Result<BackwardReport> {
    if (auto checked = detail::backward::validate(head, request, own); !checked) return tl::unexpected(checked.error());
    const auto target = detail::kernels::choose(own.kernel, own.logits);
    if (!target) return tl::unexpected(target.error());
    const int threads = own.threads > 0 ? own.threads : detail::base::available_threads();
    return detail::backward::Backward(head, request, own, **target, threads).run();
  };
  return detail::tiles::call(options, "making gradients; the output buffers are of no use", work);
}

}  // namespace isologit
