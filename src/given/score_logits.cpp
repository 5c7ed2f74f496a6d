// The entry point: logprobs of ids, lse and entropy by the rounds of score over tiles of given logits, log_softmax by
// two passes of its own.
#include <algorithm>
#include <vector>

#include "base/cpu.hpp"
#include "exact/element.hpp"
#include "given/log_softmax.hpp"
#include "given/target.hpp"
#include "given/validate.hpp"
#include "score/rounds.hpp"
#include "tiles/call.hpp"

namespace isologit {
namespace detail::given {
namespace {

// 1 for each row but those that have ids and none but ignore_index.
std::vector<std::uint8_t> selected_rows(const GivenLogitsRequest& request) {
  std::vector<std::uint8_t> selected(static_cast<std::size_t>(request.logits.rows), 1);
  if (request.token_ids.empty()) return selected;
  const auto per_row = static_cast<std::size_t>(request.ids_per_row);
  for (std::size_t i = 0; i < selected.size(); ++i) {
    const auto ids = request.token_ids.subspan(i * per_row, per_row);
    const auto ignored = [&](std::int64_t id) { return id == request.ignore_index; };
    selected[i] = std::all_of(ids.begin(), ids.end(), ignored) ? 0 : 1;
  }
  return selected;
}

}  // namespace

class Score {
 public:
  Score(const GivenLogitsRequest& request, const ScoreOptions& options, const kernels::Target& chosen)
      : request_(request),
        options_(options),
        target_(chosen),
        threads_(options.threads > 0 ? options.threads : base::available_threads()),
        selected_(selected_rows(request)) {
    report_.kernel = chosen.name();
    report_.threads = threads_;
    report_.processors = base::available_processors();
    report_.rows = std::count(selected_.begin(), selected_.end(), 1);
  }

  Result<ScoreReport> run() {
    if (request_.logits.rows == 0) return report_;
    if (streamed()) {
      if (auto done = run_rounds(); !done) return tl::unexpected(done.error());
    }
    if (request_.log_softmax != nullptr) {
      if (auto done = run_log_softmax(); !done) return tl::unexpected(done.error());
    }
    return report_;
  }

 private:
  bool streamed() const {
    return request_.logprobs != nullptr || request_.lse != nullptr || request_.entropy != nullptr;
  }

  // What the caller sees of a part of the work that begins and ends at these shares of the whole.
  std::function<bool(double)> progress(double begin, double end) const {
    if (!options_.progress) return {};
    return [this, begin, end](double done) { return options_.progress(begin + (end - begin) * done); };
  }

  // The rounds of a score whose hidden states are given logits.
  Result<void> rounds(const ScoreRequest& scored, const ScoreOptions& options) {
    const auto report = score::run(head_of(scored.hidden), scored, options, target_, threads_);
    if (!report) return tl::unexpected(report.error());
    report_.undecided_rows += report->undecided_rows;
    report_.rounds = std::max(report_.rounds, report->rounds);
    return {};
  }

  Result<void> run_rounds() {
    ScoreRequest scored{.hidden = request_.logits, .token_ids = {}, .temperatures = request_.temperatures};
    scored.ignore_index = request_.ignore_index;
    scored.row_mask = selected_;
    scored.lse = request_.lse;
    scored.entropy = request_.entropy;
    if (request_.logprobs != nullptr) {
      scored.ids_per_row = request_.ids_per_row;
      scored.ids = request_.token_ids;
      scored.ids_logprobs = request_.logprobs;
    }
    ScoreOptions options = options_;
    options.progress = progress(0, request_.log_softmax == nullptr ? 1 : 0.5);
    return rounds(scored, options);
  }

  Result<void> run_log_softmax() {
    const double begin = streamed() ? 0.5 : 0;
    const LogSoftmaxDone done = log_softmax(request_, selected_, target_.fold_loops(), threads_, progress(begin, 1));
    if (done.cancelled) return fail(StatusCode::cancelled, "cancelled by the progress callback");
    for (const OpenRow& open : done.open) {
      if (auto settled = settle(open); !settled) return settled;
    }
    return {};
  }

  // The ids of a row that log_softmax left open, as ids to scored.
  Result<void> settle(const OpenRow& open) {
    ScoreRequest scored;
    scored.hidden = request_.logits;
    scored.hidden.data = exact::row_data(request_.logits, open.row);
    scored.hidden.rows = 1;
    scored.temperatures = request_.temperatures;
    if (scored.temperatures.size() > 1) {
      scored.temperatures = scored.temperatures.subspan(static_cast<std::size_t>(open.row), 1);
    }
    std::vector<float> logprobs(open.ids.size());
    scored.ignore_index = -1;
    scored.ids_per_row = static_cast<std::int64_t>(open.ids.size());
    scored.ids = open.ids;
    scored.ids_logprobs = logprobs.data();
    if (auto done = rounds(scored, {}); !done) return done;
    float* to = request_.log_softmax + open.row * request_.log_softmax_row_stride;
    for (std::size_t i = 0; i < logprobs.size(); ++i) to[open.ids[i]] = logprobs[i];
    return {};
  }

  const GivenLogitsRequest& request_;
  const ScoreOptions& options_;
  const GivenTarget target_;
  int threads_;
  std::vector<std::uint8_t> selected_;
  ScoreReport report_;
};

}  // namespace detail::given

Result<ScoreReport> score_logits(const GivenLogitsRequest& request, const ScoreOptions& options) {
  const auto work = [&](const ScoreOptions& own) -> Result<ScoreReport> {
    if (auto checked = detail::given::validate(request, own); !checked) return tl::unexpected(checked.error());
    const auto chosen = detail::kernels::choose(own.kernel, Arithmetic::exact);
    if (!chosen) return tl::unexpected(chosen.error());
    return detail::given::Score(request, own, **chosen).run();
  };
  return detail::tiles::call(options, "scoring logits; nothing useful is in the outputs", work);
}

}  // namespace isologit
