// The entry point of draws: those of sample over tiles of given logits.
#include <algorithm>
#include <limits>
#include <vector>

#include "base/thread_pool.hpp"
#include "given/row.hpp"
#include "given/target.hpp"
#include "given/validate.hpp"
#include "sample/sample.hpp"
#include "tiles/call.hpp"
#include "tiles/transforms.hpp"

namespace isologit {
namespace detail::given {
namespace {

SampleRequest draws_of(const GivenLogitsSampleRequest& request) {
  SampleRequest draws;
  draws.hidden = request.logits;
  draws.temperatures = request.temperatures;
  draws.seeds = request.seeds;
  draws.sequence_ids = request.sequence_ids;
  draws.positions = request.positions;
  draws.min_p = request.min_p;
  draws.top_k = request.top_k;
  draws.top_p = request.top_p;
  draws.ids = request.ids;
  draws.logprobs = request.logprobs;
  draws.cut_logprobs = request.cut_logprobs;
  draws.log_kept_cut = request.log_kept_cut;
  return draws;
}

// Of one row: 1 for each logit above -inf, NaN too, that does not stand behind `end` in the row's order.
void fill_mask(const GivenLogitsSampleRequest& request, std::int64_t row, const fold::Candidate& end) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  const float temperature = tiles::temperature_of(request.temperatures, row);
  float logits[kernels::kMostTile];
  std::uint8_t* mask = request.cut_mask + row * request.logits.cols;
  for (std::int64_t first = 0; first < request.logits.cols; first += kernels::kMostTile) {
    const std::int64_t count = std::min<std::int64_t>(kernels::kMostTile, request.logits.cols - first);
    copy_row(request.logits, row, first, count, logits);
    if (temperature != 0) tiles::apply_temperature(temperature, logits, count);
    for (std::int64_t j = 0; j < count; ++j) {
      const bool behind = logits[j] < end.logit || (logits[j] == end.logit && first + j > end.id);
      mask[first + j] = logits[j] == kNothing || behind ? 0 : 1;
    }
  }
}

Result<SampleReport> draw(const GivenLogitsSampleRequest& request, const ScoreOptions& options) {
  const SampleRequest draws = draws_of(request);
  if (auto checked = validate(request, draws, options); !checked) return tl::unexpected(checked.error());
  const auto chosen = kernels::choose(options.kernel, Arithmetic::exact);
  if (!chosen) return tl::unexpected(chosen.error());
  const GivenTarget target(**chosen);
  std::vector<fold::Candidate> ends(request.cut_mask == nullptr ? 0 : static_cast<std::size_t>(request.logits.rows));
  auto report = sample::run(head_of(request.logits), draws, options, target, ends);
  if (!report) return report;
  report->kernel = (*chosen)->name();
  base::parallel_for(report->threads, static_cast<std::int64_t>(ends.size()),
                     [&](int, std::int64_t row) { fill_mask(request, row, ends[static_cast<std::size_t>(row)]); });
  return report;
}

}  // namespace
}  // namespace detail::given

Result<SampleReport> sample_logits(const GivenLogitsSampleRequest& request, const ScoreOptions& options) {
  const auto work = [&](const ScoreOptions& own) { return detail::given::draw(request, own); };
  return detail::tiles::call(options, "sampling; nothing useful is in the output buffers", work);
}

}  // namespace isologit
