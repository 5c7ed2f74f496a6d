// What isologit score prints.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/digest.hpp"
#include "cli/head_text.hpp"
#include "cli/score_run.hpp"
#include "cli/summary.hpp"
#include "cli/text.hpp"

namespace isologit::detail::cli {
namespace {

// What is told of a run, as JSON or as a table.
struct Told {
  const ScoreArguments& arguments;
  const io::Checkpoint& checkpoint;
  const ScoreJob& job;
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
  nlohmann::ordered_json json = {
      {"model", told.arguments.model},
      {"input", told.arguments.input},
      {"rows", told.job.rows.count()},
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
  const std::string support = told.job.support.text(told.checkpoint.head.vocab_size);
  if (!support.empty()) json["support"] = support;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string temperature_text(const ScoreJob& job) {
  if (job.temperature_per_row) return "one per row";
  return job.rows.temperatures.empty() ? "1" : fmt::format("{}", job.rows.temperatures[0]);
}

std::string as_table(const Told& told) {
  const ScoreReport& report = told.scores.report;
  const ScoreJob& job = told.job;
  const auto value = [&](double Summary::*member) {
    return told.summary ? fmt::format("{}", (*told.summary).*member) : std::string("none: no row is scored");
  };
  std::string rows = fmt::format("{}", job.rows.count());
  if (told.arguments.rows) rows += fmt::format(" ({} to {})", job.rows.range.begin, job.rows.range.end - 1);
  if (told.ignored > 0) rows += fmt::format(", {} of them ignored", told.ignored);
  std::vector<std::pair<std::string, std::string>> fields = {
      {"model", told.arguments.model},
      {"head", head_text(told.checkpoint)},
      {"transforms", transforms_text(told.checkpoint.head.transforms)},
      {"vocabulary", fmt::format("{}", told.checkpoint.head.vocab_size)},
      {"input", fmt::format("{}  hidden_states {} [*, {}]", told.arguments.input, dtype_name(job.rows.hidden.dtype),
                            job.rows.hidden.cols)},
      {"rows", rows},
      {"temperature", temperature_text(job)},
      {"kernel", how_text(report.kernel, report.threads, report.arithmetic)},
      {"time", duration_text(told.scores.seconds)},
      {"settled again", fmt::format("{} logits by exact accumulation, {} rows at a wider precision",
                                    report.logit_fallbacks, report.undecided_rows)}};
  const std::string support = job.support.text(told.checkpoint.head.vocab_size);
  if (!support.empty()) fields.emplace_back("support", support);
  if (!told.arguments.output.empty()) fields.emplace_back("output", told.arguments.output);
  fields.emplace_back("", "");
  fields.emplace_back("mean logprob", value(&Summary::mean));
  fields.emplace_back("perplexity", value(&Summary::perplexity));
  fields.emplace_back("digest", "sha256 " + told.digest);
  return field_table(fields);
}

}  // namespace

std::string tell_scores(const ScoreArguments& arguments, const io::Checkpoint& checkpoint, const ScoreJob& job,
                        const Scores& scores) {
  std::vector<float> counted;
  for (std::size_t i = 0; i < job.rows.count(); ++i) {
    if (job.token_ids[i] != kIgnore) counted.push_back(scores.logprobs[i]);
  }
  const auto ignored = static_cast<std::int64_t>(job.rows.count() - counted.size());
  const Told told{arguments, checkpoint, job, scores, ignored, summarise(counted), f32_digest(counted)};
  return arguments.json ? as_json(told) : as_table(told);
}

}  // namespace isologit::detail::cli
