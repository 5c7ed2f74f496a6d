// The entry point: dz of given logits, by the derivatives of backward over tiles of them, or of a dense upstream of
// log_softmax.
#include <algorithm>

#include "backward/derivatives.hpp"
#include "base/cpu.hpp"
#include "base/parties.hpp"
#include "base/thread_pool.hpp"
#include "given/log_softmax_gradient.hpp"
#include "given/target.hpp"
#include "given/validate.hpp"
#include "tiles/call.hpp"

namespace isologit {
namespace detail::given {
namespace {

tl::unexpected<Error> cancelled() {
  return fail(StatusCode::cancelled, "cancelled by the progress callback; the gradient is of no use");
}

Result<BackwardReport> run_dense(const GivenLogitsBackwardRequest& request, const BackwardOptions& options,
                                 const GivenTarget& target, BackwardReport report) {
  const LogSoftmaxGradientDone done = log_softmax_gradient(request, target, report.threads, options.progress);
  if (done.cancelled) return cancelled();
  report.rows = done.rows;
  report.derivative_fallbacks = done.fallbacks;
  return report;
}

// Chunks of the vocabulary that are made at a time.
constexpr std::int64_t kStrip = 16;

Result<BackwardReport> run_streamed(const GivenLogitsBackwardRequest& given, const BackwardOptions& options,
                                    const GivenTarget& target, BackwardReport report) {
  BackwardRequest request{
      .hidden = given.logits, .token_ids = given.token_ids, .temperatures = given.temperatures, .support = {}};
  request.ids_per_row = given.ids_per_row;
  request.ignore_index = given.ignore_index;
  request.d_logprobs = given.d_logprobs;
  request.d_lse = given.d_lse;
  request.d_entropy = given.d_entropy;
  const std::int64_t vocab = given.logits.cols;
  const Head head = head_of(given.logits);
  const base::Parties parties(options.peers, vocab);
  const backward::ActiveRows rows(request, parties.vocab_size());
  report.rows = static_cast<std::int64_t>(rows.active().size());
  if (report.rows < given.logits.rows) {
    for (std::int64_t i = 0; i < given.logits.rows; ++i) {
      std::fill_n(given.dlogits + i * given.dlogits_row_stride, vocab, 0.0F);
    }
  }
  if (report.rows == 0) return report;
  backward::Derivatives derivatives(head, request, rows, target, target.backward_loops(), true, report.threads,
                                    parties);
  constexpr double kFirstPass = 0.3;
  const auto progress = [&](double share) { return !options.progress || options.progress(share); };
  if (!derivatives.normalize([&](double done) { return progress(kFirstPass * done); })) return cancelled();
  const std::int64_t strips = (derivatives.chunks() + kStrip - 1) / kStrip;
  const std::int64_t most_strips = parties.greatest(strips);
  base::AlignedBuffer strip(static_cast<std::size_t>(kStrip * report.rows * backward::kChunk) * sizeof(float));
  for (std::int64_t first = 0; first < derivatives.chunks(); first += kStrip) {
    const std::int64_t count = std::min(kStrip, derivatives.chunks() - first);
    const auto shown = [&](double done) {
      const double chunks = static_cast<double>(first) + done * static_cast<double>(count);
      return progress(kFirstPass + (1 - kFirstPass) * chunks / static_cast<double>(derivatives.chunks()));
    };
    if (!derivatives.make(first, count, strip.as<float>(), shown)) return cancelled();
    base::parallel_for(report.threads, count, [&](int, std::int64_t chunk) {
      const std::int64_t id = (first + chunk) * backward::kChunk;
      const std::int64_t ids = std::min(backward::kChunk, vocab - id);
      for (std::int64_t r = 0; r < report.rows; ++r) {
        const backward::ActiveRow& row = rows.active()[static_cast<std::size_t>(r)];
        std::copy_n(strip.as<float>() + (chunk * report.rows + r) * backward::kChunk, ids,
                    given.dlogits + row.index * given.dlogits_row_stride + id);
      }
    });
  }
  for (std::int64_t i = strips; i < most_strips; ++i) derivatives.take_part();
  report.derivative_fallbacks = derivatives.fallbacks();
  return report;
}

}  // namespace
}  // namespace detail::given

Result<BackwardReport> backward_logits(const GivenLogitsBackwardRequest& request, const BackwardOptions& options) {
  const auto work = [&](const BackwardOptions& own) -> Result<BackwardReport> {
    if (auto checked = detail::given::validate(request, own); !checked) return tl::unexpected(checked.error());
    const auto chosen = detail::kernels::choose(own.kernel, Arithmetic::exact);
    if (!chosen) return tl::unexpected(chosen.error());
    BackwardReport report;
    report.kernel = (*chosen)->name();
    report.threads = own.threads > 0 ? own.threads : detail::base::available_threads();
    report.processors = detail::base::available_processors();
    if (request.logits.rows == 0) return report;
    const detail::given::GivenTarget target(**chosen);
    if (request.d_log_softmax.data != nullptr) return detail::given::run_dense(request, own, target, report);
    return detail::given::run_streamed(request, own, target, report);
  };
  return detail::tiles::call(options, "making gradients; the output buffer is of no use", work);
}

}  // namespace isologit
