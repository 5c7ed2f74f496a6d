// A linear is a head whose logits are wanted: exact sums, rounded once to the type of x.
#include "isologit/forward.hpp"
#include "isologit/score.hpp"

namespace isologit {

Result<forward::Report> forward::linear(const LinearRequest& request, const Options& options) {
  const Head head{.weight = request.weight, .bias = request.bias, .vocab_size = request.weight.rows};
  ScoreRequest scored{.hidden = request.x};
  scored.logits.data = request.y;
  scored.logits.dtype = request.x.dtype;
  scored.logits.count = request.weight.rows;
  scored.logits.row_stride = request.y_row_stride;
  ScoreOptions own;
  own.threads = options.threads;
  own.processors = options.processors;
  own.kernel = options.kernel;
  own.progress = options.progress;
  const auto report = score(head, scored, own);
  if (!report) return tl::unexpected(report.error());
  return Report{report->kernel, report->threads, report->processors, report->logit_fallbacks};
}

}  // namespace isologit
