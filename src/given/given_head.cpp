// The entry points of heads whose logits are given: score and sample over tiles that are copied.
#include "base/cpu.hpp"
#include "given/target.hpp"
#include "given/validate.hpp"
#include "kernels/registry.hpp"
#include "sample/sample.hpp"
#include "score/rounds.hpp"
#include "tiles/call.hpp"

namespace isologit {
namespace {

// run(target) of a request that is as it should be; the report names the kernel whose loops ran.
template <class Report, class Request, class Run>
Result<Report> by_given(const Head& head, const Request& request, const ScoreOptions& options, Run run) {
  if (auto checked = detail::given::validate(head, request, options); !checked) {
    return tl::unexpected(checked.error());
  }
  const auto chosen = detail::kernels::choose(options.kernel, Arithmetic::exact);
  if (!chosen) return tl::unexpected(chosen.error());
  Result<Report> report = run(detail::given::GivenTarget(**chosen));
  if (report) report->kernel = (*chosen)->name();
  return report;
}

}  // namespace

Result<ScoreReport> score_given(const Head& head, const ScoreRequest& request, const ScoreOptions& options) {
  const auto work = [&](const ScoreOptions& own) {
    return by_given<ScoreReport>(head, request, own, [&](const detail::given::GivenTarget& target) {
      const int threads = own.threads > 0 ? own.threads : detail::base::available_threads();
      return detail::score::run(head, request, own, target, threads);
    });
  };
  return detail::tiles::call(options, "scoring; nothing useful is in the output buffers", work);
}

Result<SampleReport> sample_given(const Head& head, const SampleRequest& request, const ScoreOptions& options) {
  const auto work = [&](const ScoreOptions& own) {
    return by_given<SampleReport>(head, request, own, [&](const detail::given::GivenTarget& target) {
      return detail::sample::run(head, request, own, target);
    });
  };
  return detail::tiles::call(options, "sampling; nothing useful is in the output buffers", work);
}

}  // namespace isologit
