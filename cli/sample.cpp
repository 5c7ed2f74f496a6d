// isologit sample: one token for each captured row, drawn from the distribution of a checkpoint's head.
#include "isologit/sample.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/input_rows.hpp"
#include "cli/run_with_progress.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"
#include "io/captured.hpp"
#include "io/checkpoint.hpp"
#include "io/safetensors_writer.hpp"

namespace isologit::detail::cli {
namespace {

struct Arguments : RowArguments {
  std::optional<std::string> top_p;
  std::optional<std::string> min_p;
  std::int64_t top_k = 0;
  std::string seed = "0";
  std::string sequence_id = "0";
};

// The rows to draw for, and how.
struct Job {
  InputRows rows;
  RowSupport support;
  std::vector<std::uint32_t> positions;
};

// The command line's values, before any file is opened.
struct SampleOptions : RowOptions {
  float top_p = 1;
  float min_p = 0;
  std::uint64_t seed = 0;
  std::uint64_t sequence_id = 0;
};

struct Samples {
  std::vector<std::int64_t> ids;
  std::vector<float> logprobs;
  std::vector<float> cut_logprobs;
  std::vector<float> log_kept_cut;
  SampleReport report;
  double seconds = 0;
};

Outcome<SampleOptions> parse(const Arguments& arguments) {
  const Outcome<RowOptions> common = parse_row_options(arguments, true);
  if (!common) return tl::unexpected(common.error());
  SampleOptions options{*common};
  if (arguments.top_p) {
    const Outcome<float> parsed = parse_f32("--top-p", *arguments.top_p, "a number above 0, up to 1, such as 0.9",
                                            [](float p) { return p > 0 && p <= 1; });
    if (!parsed) return tl::unexpected(parsed.error());
    options.top_p = *parsed;
  }
  if (arguments.min_p) {
    const Outcome<float> parsed = parse_f32("--min-p", *arguments.min_p, "a number from 0 to 1, such as 0.05",
                                            [](float p) { return p >= 0 && p <= 1; });
    if (!parsed) return tl::unexpected(parsed.error());
    options.min_p = *parsed;
  }
  const Outcome<std::uint64_t> seed = parse_u64("--seed", arguments.seed);
  if (!seed) return tl::unexpected(seed.error());
  options.seed = *seed;
  const Outcome<std::uint64_t> sequence_id = parse_u64("--sequence-id", arguments.sequence_id);
  if (!sequence_id) return tl::unexpected(sequence_id.error());
  options.sequence_id = *sequence_id;
  return options;
}

Outcome<Job> make_job(const Arguments& arguments, const SampleOptions& options, const io::Captured& captured,
                      const io::Checkpoint& checkpoint) {
  const Outcome<InputRows> rows = choose_rows(arguments.input, captured, checkpoint, options, true);
  if (!rows) return tl::unexpected(rows.error());
  Outcome<RowSupport> support =
      choose_support(arguments.input, captured, rows->range, checkpoint.head.vocab_size, options.vocab);
  if (!support) return tl::unexpected(support.error());
  Job job{*rows, std::move(*support), {}};
  for (std::int64_t row = rows->range.begin; row < rows->range.end; ++row) {
    job.positions.push_back(static_cast<std::uint32_t>(row));
  }
  return job;
}

Outcome<Samples> compute(const Head& head, const Job& job, const Arguments& arguments, const SampleOptions& options) {
  Samples samples;
  const std::size_t rows = job.rows.count();
  samples.ids.resize(rows);
  samples.logprobs.resize(rows);
  samples.cut_logprobs.resize(rows);
  samples.log_kept_cut.resize(rows);
  SampleRequest request;
  request.hidden = job.rows.hidden;
  request.temperatures = job.rows.temperatures;
  request.support = job.support.view();
  request.seeds = {&options.seed, 1};
  request.sequence_ids = {&options.sequence_id, 1};
  request.positions = job.positions;
  request.min_p = {&options.min_p, 1};
  request.top_k = {&arguments.top_k, 1};
  request.top_p = {&options.top_p, 1};
  request.ids = samples.ids.data();
  request.logprobs = samples.logprobs.data();
  request.cut_logprobs = samples.cut_logprobs.data();
  request.log_kept_cut = samples.log_kept_cut.data();
  const auto call = [&](const ScoreOptions& with_progress) { return sample(head, request, with_progress); };
  const auto done = run_with_progress(options.compute, call, samples.report, samples.seconds);
  if (!done) return tl::unexpected(done.error());
  return samples;
}

Outcome<void> write(io::NewFile& file, const Samples& samples) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(samples.ids.size())};
  const auto tensor = [&](const char* name, const char* dtype, const auto& values) {
    return io::TensorToWrite{name, dtype, shape, std::as_bytes(std::span(values))};
  };
  const std::vector<io::TensorToWrite> tensors = {
      tensor("ids", "I64", samples.ids), tensor("logprobs", "F32", samples.logprobs),
      tensor("cut_logprobs", "F32", samples.cut_logprobs), tensor("log_kept_cut", "F32", samples.log_kept_cut)};
  if (const Result<void> written = io::write_safetensors(file, tensors); !written) return failure(written.error());
  return {};
}

std::string as_json(const Arguments& arguments, const io::Checkpoint& checkpoint, const SampleOptions& options,
                    const Samples& samples, const std::string& support) {
  const SampleReport& report = samples.report;
  nlohmann::ordered_json json = {{"model", arguments.model},
                                 {"input", arguments.input},
                                 {"rows", report.rows},
                                 {"vocab_size", checkpoint.head.vocab_size},
                                 {"hidden_size", checkpoint.head.weight.cols},
                                 {"seed", options.seed},
                                 {"sequence_id", options.sequence_id},
                                 {"kernel", report.kernel},
                                 {"arithmetic", arithmetic_name(report.arithmetic)},
                                 {"threads", report.threads},
                                 {"seconds", samples.seconds},
                                 {"logit_fallbacks", report.logit_fallbacks},
                                 {"rounds", report.rounds},
                                 {"further_rows", report.further_rows},
                                 {"undecided_rows", report.undecided_rows},
                                 {"second_words", report.second_words},
                                 {"exact_draws", report.exact_draws},
                                 {"ids", samples.ids}};
  if (!support.empty()) json["support"] = support;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string as_table(const Arguments& arguments, const io::Checkpoint& checkpoint, const Samples& samples,
                     const std::string& support) {
  const SampleReport& report = samples.report;
  std::vector<std::pair<std::string, std::string>> fields = {
      {"model", arguments.model},
      {"head", describe_head(checkpoint)},
      {"transforms", transforms_text(checkpoint.head.transforms)},
      {"vocabulary", fmt::format("{}", checkpoint.head.vocab_size)},
      {"rows", fmt::format("{}", report.rows)},
      {"keys", fmt::format("seed {}, sequence {}, position: the row", arguments.seed, arguments.sequence_id)},
      {"kernel", kernel_text(report.kernel, report.threads, report.arithmetic)},
      {"time", duration_text(samples.seconds)},
      {"settled again",
       fmt::format("{} logits by exact accumulation, {} rows by further passes, {} rows at a wider precision",
                   report.logit_fallbacks, report.further_rows, report.undecided_rows)}};
  if (!support.empty()) fields.emplace_back("support", support);
  if (arguments.output) fields.emplace_back("output", *arguments.output);
  constexpr std::size_t kShown = 16;
  std::string ids;
  for (std::size_t i = 0; i < std::min(samples.ids.size(), kShown); ++i) ids += fmt::format(" {}", samples.ids[i]);
  if (samples.ids.size() > kShown) ids += " ...";
  fields.emplace_back("", "");
  fields.emplace_back("ids", ids.empty() ? "none" : ids.substr(1));
  return field_table(fields);
}

Outcome<Ending> run(const Arguments& arguments) {
  const Outcome<SampleOptions> options = parse(arguments);
  if (!options) return tl::unexpected(options.error());
  const Outcome<io::Checkpoint> checkpoint = open_model(arguments);
  if (!checkpoint) return tl::unexpected(checkpoint.error());
  const Result<io::Captured> captured = io::read_hidden_rows(arguments.input);
  if (!captured) return failure(captured.error());
  const Outcome<Job> job = make_job(arguments, *options, *captured, *checkpoint);
  if (!job) return tl::unexpected(job.error());

  Outcome<std::optional<io::NewFile>> output = begin_output(arguments.output, checkpoint->directory);
  if (!output) return tl::unexpected(output.error());
  const Outcome<Samples> samples = compute(checkpoint->head, *job, arguments, *options);
  if (!samples) return tl::unexpected(samples.error());
  if (*output) {
    if (const auto written = write(**output, *samples); !written) return tl::unexpected(written.error());
  }
  const std::string support = job->support.text(checkpoint->head.vocab_size);
  std::string text = arguments.json ? as_json(arguments, *checkpoint, *options, *samples, support)
                                    : as_table(arguments, *checkpoint, *samples, support);
  return Ending{std::move(text), std::move(*output)};
}

constexpr const char* kFooter =
    "The input is a safetensors file with hidden_states [T, H] (bf16, f16 or f32) and optionally temperatures [T]\n"
    "(f32, 0 allowed). A row's draw depends on its logits, the cuts, the seed, the sequence id and its number in the\n"
    "file. The input may also hold the ids that are drawn from: kept_offsets and kept_ids, banned_offsets and\n"
    "banned_ids, as for score.\n"
    "The output gets ids [T] (i64) and logprobs, cut_logprobs, log_kept_cut [T] (f32) of the rows asked for.\n"
    "\n"
    "The JSON object has model, input, rows, vocab_size, hidden_size, seed, sequence_id, kernel, arithmetic, threads,\n"
    "seconds (of sampling alone), logit_fallbacks, rounds, further_rows, undecided_rows, second_words, exact_draws,\n"
    "ids; and support, in words, when ids are left out.\n"
    "\n"
    "Exit code: 0, 1 for a failure, 2 for a wrong command line, 130 when interrupted.";

}  // namespace

VerbRun sample_verb(Options& options) {
  const auto arguments = std::make_shared<Arguments>();
  options.about("Draw a token for each captured row, the same on every machine");
  arguments->declare(
      options, "Draw from ids A to B - 1 only",
      "Divide all logits by T, rounded to f32; 0: the greatest logit. Not with an input that has temperatures");
  options.text("--output", "FILE", arguments->output, "Where to write the result of each row");
  options.text("--seed", "S", arguments->seed, "The key of the random numbers; 0 by default");
  options.text("--sequence-id", "Q", arguments->sequence_id, "The sequence that is drawn for; 0 by default");
  options.text("--min-p", "P", arguments->min_p, "Keep tokens of at least P times the greatest probability");
  options.integer("--top-k", "K", arguments->top_k, 0, std::numeric_limits<std::int64_t>::max(),
                  "Keep the K most probable of these; 0, the default: all");
  options.text("--top-p", "P", arguments->top_p, "Keep the shortest prefix of these with a share of at least P");
  options.footer(kFooter);
  return [arguments] { return run(*arguments); };
}

}  // namespace isologit::detail::cli
