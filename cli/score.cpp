// isologit score: log-probabilities of captured tokens under a checkpoint's head.
#include "isologit/score.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>

#include "cli/digest.hpp"
#include "cli/ranks.hpp"
#include "cli/run_with_progress.hpp"
#include "cli/score_report.hpp"
#include "cli/verbs.hpp"
#include "io/captured.hpp"
#include "io/safetensors_writer.hpp"
#include "isologit/kernels.hpp"
#include "isologit/version.hpp"

namespace isologit::detail::cli {

bool ScoreArguments::wants(const char* name) const { return std::find(with.begin(), with.end(), name) != with.end(); }

namespace {

Outcome<RowOptions> parse(const ScoreArguments& arguments) {
  Outcome<RowOptions> options = parse_row_options(arguments);
  if (options && !arguments.output && (arguments.top_k > 0 || !arguments.with.empty())) {
    return usage_error(
        fmt::format("{}: needs --output, which is where the values go", arguments.top_k > 0 ? "--top-k" : "--with"));
  }
  return options;
}

// What the core would refuse as well, but by the rows of the file rather than of the slice.
Outcome<void> check_ids(const std::string& input, const ScoreJob& job, std::int64_t vocab_size) {
  const auto check = [&](const char* name, const std::vector<std::int64_t>& ids, std::int64_t per_row,
                         const char* meaning) -> Outcome<void> {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == kIgnore || (ids[i] >= 0 && ids[i] < vocab_size)) continue;
      const auto at = static_cast<std::int64_t>(i);
      const std::int64_t row = job.rows.range.begin + at / per_row;
      const std::string place = per_row == 1 ? fmt::format("{}", row) : fmt::format("{}, {}", row, at % per_row);
      return failure(fmt::format("'{}': {}[{}] is {}; expected an id of the vocabulary, 0 to {}, or {} for {}", input,
                                 name, place, ids[i], vocab_size - 1, kIgnore, meaning));
    }
    return {};
  };
  if (auto checked = check("token_ids", job.token_ids, 1, "a row to ignore"); !checked) return checked;
  return check("ids", job.given.ids, std::max<std::int64_t>(job.given.per_row, 1), "none");
}

Outcome<ScoreJob> make_job(const ScoreArguments& arguments, const RowOptions& options, const io::Captured& captured,
                           const io::Checkpoint& checkpoint) {
  const Outcome<InputRows> rows = choose_rows(arguments.input, captured, checkpoint, options);
  if (!rows) return tl::unexpected(rows.error());
  ScoreJob job{*rows, {}, {}, {}, !captured.temperatures.empty()};
  const RowRange& range = rows->range;
  job.token_ids.assign(captured.token_ids.begin() + range.begin, captured.token_ids.begin() + range.end);
  if (arguments.output) {
    Result<io::GivenIds> given = io::read_given_ids(captured);
    if (!given) return failure(given.error());
    job.given.per_row = given->per_row;
    job.given.ids.assign(given->ids.begin() + range.begin * given->per_row,
                         given->ids.begin() + range.end * given->per_row);
  }
  Outcome<RowSupport> support =
      choose_support(arguments.input, captured, range, checkpoint.head.vocab_size, options.vocab);
  if (!support) return tl::unexpected(support.error());
  job.support = std::move(*support);
  if (const auto checked = check_ids(arguments.input, job, checkpoint.head.vocab_size); !checked) {
    return tl::unexpected(checked.error());
  }
  return job;
}

Outcome<Scores> compute(const Head& head, const ScoreJob& job, const ScoreArguments& arguments, ScoreOptions options,
                        Ranks& ranks) {
  Scores scores;
  const std::size_t rows = job.rows.count();
  const auto room = [rows](auto& values, std::size_t per_row = 1) {
    values.resize(rows * per_row);
    return values.data();
  };
  ScoreRequest request;
  request.hidden = job.rows.hidden;
  request.token_ids = job.token_ids;
  request.temperatures = job.rows.temperatures;
  request.ignore_index = kIgnore;
  request.support = job.support.view();
  request.logprobs = room(scores.logprobs);
  if (arguments.output) {
    request.lse = room(scores.lse);
    request.entropy = room(scores.entropy);
    request.argmax = room(scores.argmax);
    request.rank = room(scores.rank);
  }
  if (arguments.wants("raw_logprobs")) request.raw_logprobs = room(scores.raw_logprobs);
  if (arguments.wants("sum_p2")) request.sum_p2 = room(scores.sum_p2);
  if (arguments.wants("log_kept")) request.log_kept = room(scores.log_kept);
  if (job.given.per_row > 0) {
    request.ids_per_row = job.given.per_row;
    request.ids = job.given.ids;
    request.ids_logprobs = room(scores.ids_logprobs, static_cast<std::size_t>(job.given.per_row));
  }
  if (arguments.top_k > 0) {
    request.top_k = arguments.top_k;
    request.top_k_ids = room(scores.top_k_ids, static_cast<std::size_t>(arguments.top_k));
    request.top_k_logprobs = room(scores.top_k_logprobs, static_cast<std::size_t>(arguments.top_k));
  }
  options.peers = ranks.peers(head);
  const Head part = ranks.part_of(head);
  const auto call = [&](const ScoreOptions& with_progress) { return score(part, request, with_progress); };
  const auto done = run_with_progress(options, call, scores.report, scores.seconds);
  if (!done) return tl::unexpected(done.error());
  const Outcome<std::int64_t> fallbacks = ranks.sum(scores.report.logit_fallbacks);
  if (!fallbacks) return tl::unexpected(fallbacks.error());
  scores.report.logit_fallbacks = *fallbacks;
  scores.ranks = ranks.size();
  return scores;
}

Outcome<void> write(io::NewFile& file, const ScoreArguments& arguments, const ScoreJob& job, const Scores& scores) {
  const auto rows = static_cast<std::int64_t>(job.rows.count());
  std::vector<io::TensorToWrite> tensors;
  const auto add = [&](const char* name, const char* dtype, const auto& values, std::int64_t per_row = 0) {
    std::vector<std::int64_t> shape = {rows};
    if (per_row > 0) shape.push_back(per_row);
    tensors.push_back({name, dtype, std::move(shape), std::as_bytes(std::span(values))});
  };
  add("logprobs", "F32", scores.logprobs);
  add("lse", "F32", scores.lse);
  add("entropy", "F32", scores.entropy);
  add("argmax", "I64", scores.argmax);
  add("rank", "I64", scores.rank);
  if (arguments.wants("raw_logprobs")) add("raw_logprobs", "F32", scores.raw_logprobs);
  if (arguments.wants("sum_p2")) add("sum_p2", "F32", scores.sum_p2);
  if (arguments.wants("log_kept")) add("log_kept", "F32", scores.log_kept);
  if (job.given.per_row > 0) add("ids_logprobs", "F32", scores.ids_logprobs, job.given.per_row);
  if (arguments.top_k > 0) {
    add("top_k_ids", "I64", scores.top_k_ids, arguments.top_k);
    add("top_k_logprobs", "F32", scores.top_k_logprobs, arguments.top_k);
  }
  const Result<void> written = io::write_safetensors(file, tensors);
  if (!written) return failure(written.error());
  return {};
}

// What must be the same on all processes of mpirun: the rows, what is asked of them, and the head but for its weight.
std::string same_on_all(const ScoreArguments& arguments, const RowOptions& options, const ScoreJob& job,
                        const Head& head) {
  Digest digest;
  const auto add = [&](const auto& values) { digest.add(std::as_bytes(std::span(values))); };
  const auto hidden_bytes =
      static_cast<std::size_t>(job.rows.hidden.rows * job.rows.hidden.cols) * dtype_size(job.rows.hidden.dtype);
  digest.add({static_cast<const std::byte*>(job.rows.hidden.data), hidden_bytes});
  add(job.token_ids);
  add(job.given.ids);
  add(job.rows.temperatures);
  for (const io::ListedIds* lists : {&job.support.kept, &job.support.banned}) {
    add(lists->offsets);
    add(lists->ids);
  }
  const Transforms& steps = head.transforms;
  std::string kernel = "any exact one";  // but the reference, which takes other rounds
  for (const KernelInfo& one : kernels()) {
    const ScoreOptions& asked = options.compute;
    if (one.arithmetic != asked.arithmetic || (asked.kernel.empty() ? !one.chosen : one.name != asked.kernel)) continue;
    if (one.arithmetic == Arithmetic::fast || one.name == "reference") kernel = one.name;
  }
  return fmt::format(
      "{} rows {} dtype {} per row {} ids {} {} vocabulary {} softcap {} {} scale {} {} order {} top {} with "
      "{} output {} kernel {} lora {} {} product {} rows {}",
      ISOLOGIT_VERSION, job.rows.count(), dtype_name(job.rows.hidden.dtype), job.given.per_row, job.support.ids.begin,
      job.support.ids.end, head.vocab_size, steps.has_softcap, steps.softcap, static_cast<int>(steps.scale_kind),
      steps.scale, static_cast<int>(steps.order), arguments.top_k, fmt::join(arguments.with, ","),
      arguments.output.has_value(), kernel, head.lora.a.rows, head.lora.scale, static_cast<int>(head.encoded.product),
      digest.text());
}

// The first of the processes of mpirun has an output file.
Outcome<Ending> run(const ScoreArguments& arguments, Ranks& ranks) {
  const Outcome<RowOptions> options = parse(arguments);
  if (!options) return tl::unexpected(options.error());
  const Outcome<io::Checkpoint> checkpoint = open_model(arguments);
  if (!checkpoint) return tl::unexpected(checkpoint.error());
  const Result<io::Captured> captured = io::read_captured(arguments.input);
  if (!captured) return failure(captured.error());
  const Outcome<ScoreJob> job = make_job(arguments, *options, *captured, *checkpoint);
  if (!job) return tl::unexpected(job.error());

  const auto own_output = ranks.first() ? arguments.output : std::nullopt;
  Outcome<std::optional<io::NewFile>> output = begin_output(own_output, checkpoint->directory);
  if (!output) return tl::unexpected(output.error());
  if (ranks.several()) {
    const std::string same = same_on_all(arguments, *options, *job, checkpoint->head);
    if (const auto agreed = ranks.agree(same, "rows, head or options"); !agreed) return tl::unexpected(agreed.error());
  }
  const Outcome<Scores> scores = compute(checkpoint->head, *job, arguments, options->compute, ranks);
  if (!scores) return tl::unexpected(scores.error());
  if (*output) {
    if (const auto written = write(**output, arguments, *job, *scores); !written)
      return tl::unexpected(written.error());
  }
  if (!ranks.first()) return Ending{};
  return Ending{score_report(arguments, *checkpoint, *job, *scores), std::move(*output)};
}

Outcome<Ending> run_on_all(const ScoreArguments& arguments) {
  Outcome<Ranks> ranks = Ranks::join();
  if (!ranks) return tl::unexpected(ranks.error());
  Outcome<Ending> ending = caught([&] { return run(arguments, *ranks); });
  const Outcome<void> own = ending ? Outcome<void>() : tl::unexpected(ending.error());
  if (const Outcome<void> all = ranks->end(own); !all) return tl::unexpected(all.error());
  return ending;
}

constexpr const char* kFooter =
    "The input is a safetensors file with hidden_states [T, H] (bf16, f16 or f32), token_ids [T] (i64 or i32; -100\n"
    "marks a row to ignore) and optionally temperatures [T] (f32). token_ids[i] is scored from hidden_states[i].\n"
    "It may also hold kept_offsets [T + 1] and kept_ids (i64 or i32), the ids that each row's distribution is over:\n"
    "those of row i are kept_ids[kept_offsets[i]] to kept_ids[kept_offsets[i + 1] - 1], ascending; banned_offsets and\n"
    "banned_ids, the ids that it leaves out; and ids [T, K], more ids to score in each row (-100 for none).\n"
    "The output gets logprobs, lse, entropy [T] (f32) and argmax, rank [T] (i64) of the rows asked for; with ids in "
    "the\n"
    "input ids_logprobs [T, K], with --top-k top_k_ids, top_k_logprobs [T, k], and what --with names [T].\n"
    "\n"
    "The JSON object has model, input, rows (all rows asked for), ignored (those of them with id -100), vocab_size,\n"
    "hidden_size, kernel, arithmetic, threads, seconds (of scoring alone), logit_fallbacks, undecided_rows, rounds,\n"
    "mean_logprob and perplexity (each the real number rounded once to f64; null when every row is ignored or the\n"
    "result is not finite), digest (SHA-256 of the little-endian f32 logprobs of the rows not ignored, in order);\n"
    "and support, in words, when ids are left out.\n"
    "\n"
    "Exit code: 0, 1 for a failure, 2 for a wrong command line, 130 when interrupted.";

}  // namespace

VerbRun score_verb(Options& options) {
  const auto arguments = std::make_shared<ScoreArguments>();
  options.about("Score captured tokens: log-probabilities that are right to the last bit");
  arguments->declare(options, "Distributions over ids A to B - 1 only",
                     "Divide all logits by T, rounded to f32; not with an input that has temperatures");
  options.text("--output", "FILE", arguments->output, "Where to write the result of each row");
  options.integer("--top-k", "K", arguments->top_k, 1, 1024,
                  "Also write the K first ids of each row, 1 to 1024, and their logprobs");
  options.list("--with", "NAMES", arguments->with, {"raw_logprobs", "sum_p2", "log_kept"},
               "Also write these: raw_logprobs, sum_p2, log_kept");
  options.footer(kFooter);
  return [arguments] { return run_on_all(*arguments); };
}

}  // namespace isologit::detail::cli
