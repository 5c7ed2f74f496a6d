#include "score/bf16_logits.hpp"

#include <algorithm>
#include <vector>

#include "base/aligned.hpp"
#include "base/cpu.hpp"
#include "base/thread_pool.hpp"
#include "exact/element.hpp"

namespace isologit::detail::score {
namespace {

bool changes_nothing(const Transforms& transforms) {
  return !transforms.has_softcap && (transforms.scale_kind == ScaleKind::none || transforms.scale == 1);
}

bool wants_logits_alone(const ScoreRequest& request) {
  const void* others[] = {request.logprobs, request.raw_logprobs, request.lse,         request.entropy,
                          request.sum_p2,   request.log_kept,     request.mean_logits, request.argmax,
                          request.rank,     request.ids_logprobs, request.top_k_ids,   request.top_k_logprobs,
                          request.summaries};
  return request.logits.data != nullptr &&
         std::all_of(std::begin(others), std::end(others), [](const void* output) { return output == nullptr; });
}

// Rows that are not computed are left to what knows of them.
bool wants_all_rows(const ScoreRequest& request) {
  return request.token_ids.empty() && request.row_mask.empty() && !request.use_row_list;
}

// What a thread works with.
struct Workplace {
  base::AlignedBuffer scratch;
  kernels::Counts counts;
};

MatrixView rows_of(const MatrixView& matrix, std::int64_t first, std::int64_t count) {
  MatrixView rows = matrix;
  rows.data = exact::row_data(matrix, first);
  rows.rows = count;
  return rows;
}

}  // namespace

bool serves_bf16(const Head& head, const ScoreRequest& request, const ScoreOptions& options,
                 const kernels::Target& target) {
  const kernels::Bf16Pass* pass = target.bf16_pass();
  const bool plain = head.encoded.encoding == Encoding::none && head.lora.a.rows == 0 && !options.peers &&
                     changes_nothing(head.transforms) &&
                     std::all_of(request.temperatures.begin(), request.temperatures.end(),
                                 [](float temperature) { return temperature == 1; });
  const bool of_bf16 =
      head.weight.dtype == DType::bf16 && request.hidden.dtype == DType::bf16 && request.logits.dtype == DType::bf16;
  return plain && of_bf16 && wants_logits_alone(request) && wants_all_rows(request) && pass != nullptr &&
         target.arithmetic() == Arithmetic::exact && request.hidden.rows >= pass->fewest_rows &&
         request.hidden.cols <= pass->most_columns;
}

Result<ScoreReport> bf16_logits(const Head& head, const ScoreRequest& request, const ScoreOptions& options,
                                const kernels::Target& target, int threads) {
  const kernels::Bf16Pass& pass = *target.bf16_pass();
  const std::int64_t rows = request.hidden.rows;
  const std::int64_t size = request.hidden.cols;
  const std::int64_t end = request.logits.first_id + request.logits.count;
  const std::int64_t tiles = (request.logits.count + kernels::kBf16Tile - 1) / kernels::kBf16Tile;
  // As few blocks as will do, of like size.
  const std::int64_t blocks = (rows + kernels::kBf16Rows - 1) / kernels::kBf16Rows;
  const std::int64_t most = (rows + blocks - 1) / blocks;
  base::AlignedBuffer prepared(pass.prepared_bytes(most, size));
  std::vector<Workplace> workers(static_cast<std::size_t>(threads));
  for (Workplace& worker : workers) worker.scratch = base::AlignedBuffer(pass.scratch_bytes(most, size));
  for (std::int64_t first = 0; first < rows; first += most) {
    const MatrixView hidden = rows_of(request.hidden, first, std::min(most, rows - first));
    base::parallel_for(threads, (hidden.rows + kernels::kBf16Group - 1) / kernels::kBf16Group,
                       [&](int, std::int64_t group) { pass.prepare(hidden, group, prepared.as<std::byte>()); });
    char* data = static_cast<char*>(request.logits.data) + first * request.logits.row_stride * 2;
    const auto work = [&](int worker, std::int64_t i) {
      const std::int64_t id = request.logits.first_id + i * kernels::kBf16Tile;
      const kernels::WeightTile tile{&head.weight, &head.bias, id, std::min(kernels::kBf16Tile, end - id)};
      Workplace& own = workers[static_cast<std::size_t>(worker)];
      const kernels::Bf16Output to{data + i * kernels::kBf16Tile * 2, request.logits.row_stride};
      pass.results(hidden, prepared.as<std::byte>(), tile, to, own.scratch.as<std::byte>(), own.counts);
    };
    const auto shown = [&](double done) {
      const auto whole = static_cast<double>(rows);
      return !options.progress ||
             options.progress((static_cast<double>(first) + static_cast<double>(hidden.rows) * done) / whole);
    };
    if (!base::parallel_for(threads, tiles, work, shown)) {
      return fail(StatusCode::cancelled, "cancelled by the progress callback");
    }
  }
  ScoreReport report;
  report.kernel = target.name();
  report.arithmetic = target.arithmetic();
  report.threads = threads;
  report.processors = base::available_processors();
  report.rows = rows;
  for (const Workplace& worker : workers) report.logit_fallbacks += worker.counts.fallbacks;
  return report;
}

}  // namespace isologit::detail::score
