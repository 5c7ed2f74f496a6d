// isologit score: log-probabilities of captured tokens under a checkpoint's head.
#include "isologit/score.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/destination.hpp"
#include "cli/digest.hpp"
#include "cli/head_text.hpp"
#include "cli/how.hpp"
#include "cli/interrupt.hpp"
#include "cli/parse.hpp"
#include "cli/summary.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"
#include "cli/watched.hpp"
#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "io/safetensors_writer.hpp"

namespace isologit::cli {
namespace {

constexpr std::int64_t kIgnore = -100;

struct Arguments {
  std::string model;
  std::string input;
  std::string output;
  std::optional<std::string> temperature;
  std::optional<std::string> rows;
  How how;
  bool json = false;
};

// The rows to score: a slice of the captured ones.
struct Job {
  std::string input;
  RowRange range;
  MatrixView hidden;
  std::span<const std::int64_t> token_ids;
  std::vector<float> temperatures;  // none, one for all rows, or one each

  std::size_t rows() const { return token_ids.size(); }
};

struct Scores {
  std::vector<float> logprobs;
  std::vector<float> lse;
  std::vector<float> entropy;
  std::vector<std::int64_t> argmax;
  std::vector<std::int64_t> rank;
  ScoreReport report;
  double seconds = 0;
};

// What the core would refuse as well, but by the rows of the file rather than of the slice.
Outcome<void> check_values(const Job& job, const io::Checkpoint& checkpoint) {
  const Head& head = checkpoint.head;
  if (job.hidden.cols != head.weight.cols) {
    return failure(fmt::format("'{}': hidden_states has rows of {} elements, but those of {} have {}", job.input,
                               job.hidden.cols, checkpoint.weight_name, head.weight.cols));
  }
  for (std::size_t i = 0; i < job.rows(); ++i) {
    const std::int64_t id = job.token_ids[i];
    if (id != kIgnore && (id < 0 || id >= head.vocab_size)) {
      return failure(
          fmt::format("'{}': token_ids[{}] is {}; expected an id of the vocabulary, 0 to {}, or {} for a row to ignore",
                      job.input, job.range.begin + static_cast<std::int64_t>(i), id, head.vocab_size - 1, kIgnore));
    }
  }
  for (std::size_t i = 0; i < job.temperatures.size(); ++i) {
    const float temperature = job.temperatures[i];
    if (!(temperature > 0) || !std::isfinite(temperature)) {
      return failure(fmt::format("'{}': temperatures[{}] is {}; expected a finite number above 0", job.input,
                                 job.range.begin + static_cast<std::int64_t>(i), temperature));
    }
  }
  return {};
}

Outcome<Job> make_job(const Arguments& arguments, const io::Captured& captured, std::optional<float> temperature,
                      const std::optional<RowSlice>& slice) {
  Job job{arguments.input, {0, captured.hidden.rows}, captured.hidden, {}, {}};
  if (temperature && !captured.temperatures.empty()) {
    return usage_error(fmt::format(
        "--temperature was given, but '{}' has a temperature for each row (tensor temperatures); use one of the two",
        arguments.input));
  }
  if (slice) {
    const Outcome<RowRange> range = resolve(*slice, captured.hidden.rows);
    if (!range) return tl::unexpected(range.error());
    job.range = *range;
  }
  const auto first = static_cast<std::size_t>(job.range.begin);
  const auto count = static_cast<std::size_t>(job.range.end) - first;
  const auto row_bytes = static_cast<std::size_t>(job.hidden.cols) * dtype_size(job.hidden.dtype);
  job.hidden.data = static_cast<const std::byte*>(captured.hidden.data) + first * row_bytes;
  job.hidden.rows = static_cast<std::int64_t>(count);
  job.token_ids = std::span(captured.token_ids).subspan(first, count);
  if (temperature) job.temperatures = {*temperature};
  if (!captured.temperatures.empty()) {
    const auto from = captured.temperatures.begin() + job.range.begin;
    job.temperatures.assign(from, from + static_cast<std::ptrdiff_t>(count));
  }
  return job;
}

Outcome<Scores> compute(const Head& head, const Job& job, const Arguments& arguments, const ScoreOptions& options) {
  Scores scores;
  scores.logprobs.resize(job.rows());
  ScoreRequest request{.hidden = job.hidden, .token_ids = job.token_ids, .temperatures = job.temperatures};
  request.ignore_index = kIgnore;
  request.logprobs = scores.logprobs.data();
  if (!arguments.output.empty()) {
    scores.lse.resize(job.rows());
    scores.entropy.resize(job.rows());
    scores.argmax.resize(job.rows());
    scores.rank.resize(job.rows());
    request.lse = scores.lse.data();
    request.entropy = scores.entropy.data();
    request.argmax = scores.argmax.data();
    request.rank = scores.rank.data();
  }
  const auto call = [&](const ScoreOptions& how) { return score(head, request, how); };
  const auto done = watched(options, call, scores.report, scores.seconds);
  if (!done) return tl::unexpected(done.error());
  return scores;
}

Outcome<void> write(const std::string& path, const Scores& scores) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(scores.logprobs.size())};
  const auto tensor = [&](const char* name, const char* dtype, const auto& values) {
    return io::TensorToWrite{name, dtype, shape, std::as_bytes(std::span(values))};
  };
  const std::vector<io::TensorToWrite> tensors = {
      tensor("logprobs", "F32", scores.logprobs), tensor("lse", "F32", scores.lse),
      tensor("entropy", "F32", scores.entropy), tensor("argmax", "I64", scores.argmax),
      tensor("rank", "I64", scores.rank)};
  if (const Result<void> written = io::write_safetensors(path, tensors); !written) return failure(written.error());
  return {};
}

// What is told of a run, as JSON or as a table.
struct Told {
  const Arguments& arguments;
  const io::Checkpoint& checkpoint;
  const Job& job;
  const Scores& scores;
  std::int64_t ignored;
  std::optional<Summary> summary;
  std::string digest;
};

std::string as_json(const Told& told) {
  const ScoreReport& report = told.scores.report;
  const auto finite_or_null = [](std::optional<double> x) {
    return x && std::isfinite(*x) ? nlohmann::ordered_json(*x) : nlohmann::ordered_json(nullptr);
  };
  const auto& summary = told.summary;
  const nlohmann::ordered_json json = {
      {"model", told.arguments.model},
      {"input", told.arguments.input},
      {"rows", told.job.rows()},
      {"ignored", told.ignored},
      {"vocab_size", told.checkpoint.head.vocab_size},
      {"hidden_size", told.checkpoint.head.weight.cols},
      {"kernel", report.kernel},
      {"arithmetic", arithmetic_name(report.arithmetic)},
      {"threads", report.threads},
      {"seconds", told.scores.seconds},
      {"logit_fallbacks", report.logit_fallbacks},
      {"undecided_rows", report.undecided_rows},
      {"rounds", report.rounds},
      {"mean_logprob", finite_or_null(summary ? std::optional(summary->mean) : std::nullopt)},
      {"perplexity", finite_or_null(summary ? std::optional(summary->perplexity) : std::nullopt)},
      {"digest", told.digest}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string temperature_text(const Job& job, bool per_row) {
  if (per_row) return "one per row";
  return job.temperatures.empty() ? "1" : fmt::format("{}", job.temperatures[0]);
}

std::string as_table(const Told& told, bool per_row_temperatures) {
  const ScoreReport& report = told.scores.report;
  const Job& job = told.job;
  const auto value = [&](double Summary::*member) {
    return told.summary ? fmt::format("{}", (*told.summary).*member) : std::string("none: no row is scored");
  };
  std::string rows = fmt::format("{}", job.rows());
  if (told.arguments.rows) rows += fmt::format(" ({} to {})", job.range.begin, job.range.end - 1);
  if (told.ignored > 0) rows += fmt::format(", {} of them ignored", told.ignored);
  std::vector<std::pair<std::string, std::string>> fields = {
      {"model", told.arguments.model},
      {"head", head_text(told.checkpoint)},
      {"transforms", transforms_text(told.checkpoint.head.transforms)},
      {"vocabulary", fmt::format("{}", told.checkpoint.head.vocab_size)},
      {"input", fmt::format("{}  hidden_states {} [*, {}]", told.arguments.input, dtype_name(job.hidden.dtype),
                            job.hidden.cols)},
      {"rows", rows},
      {"temperature", temperature_text(job, per_row_temperatures)},
      {"kernel", how_text(report.kernel, report.threads, report.arithmetic)},
      {"time", duration_text(told.scores.seconds)},
      {"settled again", fmt::format("{} logits by exact accumulation, {} rows at a wider precision",
                                    report.logit_fallbacks, report.undecided_rows)}};
  if (!told.arguments.output.empty()) fields.emplace_back("output", told.arguments.output);
  fields.emplace_back("", "");
  fields.emplace_back("mean logprob", value(&Summary::mean));
  fields.emplace_back("perplexity", value(&Summary::perplexity));
  fields.emplace_back("digest", "sha256 " + told.digest);
  return field_table(fields);
}

Outcome<std::string> tell(const Arguments& arguments, const io::Checkpoint& checkpoint, const Job& job,
                          const Scores& scores, bool per_row_temperatures) {
  std::vector<float> counted;
  for (std::size_t i = 0; i < job.rows(); ++i) {
    if (job.token_ids[i] != kIgnore) counted.push_back(scores.logprobs[i]);
  }
  const Told told{
      arguments,          checkpoint,         job, scores, static_cast<std::int64_t>(job.rows() - counted.size()),
      summarise(counted), f32_digest(counted)};
  return arguments.json ? as_json(told) : as_table(told, per_row_temperatures);
}

Outcome<std::string> run(const Arguments& arguments) {
  std::optional<float> temperature;
  if (arguments.temperature) {
    const Outcome<float> parsed = parse_temperature(*arguments.temperature);
    if (!parsed) return tl::unexpected(parsed.error());
    temperature = *parsed;
  }
  std::optional<RowSlice> slice;
  if (arguments.rows) {
    const Outcome<RowSlice> parsed = parse_rows(*arguments.rows);
    if (!parsed) return tl::unexpected(parsed.error());
    slice = *parsed;
  }
  const Outcome<ScoreOptions> options = arguments.how.options();
  if (!options) return tl::unexpected(options.error());
  if (!arguments.output.empty()) {
    const auto checked = check_destination(arguments.output, arguments.input);
    if (!checked) return tl::unexpected(checked.error());
  }
  const Result<io::Checkpoint> checkpoint = io::open_checkpoint(arguments.model);
  if (!checkpoint) return failure(checkpoint.error());
  const Result<io::Captured> captured = io::read_captured(arguments.input);
  if (!captured) return failure(captured.error());
  const Outcome<Job> job = make_job(arguments, *captured, temperature, slice);
  if (!job) return tl::unexpected(job.error());
  if (const auto checked = check_values(*job, *checkpoint); !checked) return tl::unexpected(checked.error());

  const InterruptGuard guard;  // until the output is complete, so that nothing partial is left
  const Outcome<Scores> scores = compute(checkpoint->head, *job, arguments, *options);
  if (!scores) return tl::unexpected(scores.error());
  if (!arguments.output.empty()) {
    if (const auto written = write(arguments.output, *scores); !written) return tl::unexpected(written.error());
  }
  return tell(arguments, *checkpoint, *job, *scores, !captured->temperatures.empty());
}

constexpr const char* kFooter =
    "The input is a safetensors file with hidden_states [T, H] (bf16, f16 or f32), token_ids [T] (i64 or i32; -100\n"
    "marks a row to ignore) and optionally temperatures [T] (f32). token_ids[i] is scored from hidden_states[i].\n"
    "The output gets logprobs, lse, entropy [T] (f32) and argmax, rank [T] (i64) of the rows asked for.\n"
    "\n"
    "The JSON object has model, input, rows (all rows asked for), ignored (those of them with id -100), vocab_size,\n"
    "hidden_size, kernel, arithmetic, threads, seconds (of scoring alone), logit_fallbacks, undecided_rows, rounds,\n"
    "mean_logprob and perplexity (each the real number rounded once to f64; null when every row is ignored or the\n"
    "result is not finite), digest (SHA-256 of the little-endian f32 logprobs of the rows not ignored, in order).\n"
    "\n"
    "Exit code: 0, 1 for a failure, 2 for a wrong command line, 130 when interrupted.";

}  // namespace

Verb score_verb(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("score", "Score captured tokens: log-probabilities that are right to the last bit");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("MODEL", arguments->model, "A checkpoint's directory, or a model id in the Hugging Face cache")
      ->required();
  command->add_option("--input", arguments->input, "The captured rows")->required()->type_name("FILE");
  command->add_option("--output", arguments->output, "Where to write the result of each row")->type_name("FILE");
  command
      ->add_option("--temperature", arguments->temperature,
                   "Divide all logits by T, rounded to f32; not with an input that has temperatures")
      ->type_name("T");
  arguments->how.add_to(*command);
  command->add_option("--rows", arguments->rows, "Only rows A to B - 1, counted from 0; A or B may be left out")
      ->type_name("A:B");
  command->add_flag("--json", arguments->json, "Print one JSON object instead of a table");
  command->footer(kFooter);
  return {command, [arguments] { return run(*arguments); }};
}

}  // namespace isologit::cli
