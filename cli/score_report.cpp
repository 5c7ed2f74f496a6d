#include "cli/score_report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/digest.hpp"
#include "cli/summary.hpp"
#include "cli/text.hpp"

namespace isologit::detail::cli {
namespace {

// What is told of a run.
struct Report {
  const ScoreArguments& arguments;
  const io::Checkpoint& checkpoint;
  const ScoreJob& job;
  const Scores& scores;
  std::int64_t ignored;
  std::optional<Summary> summary;
  std::string digest;
};

std::string as_json(const Report& of) {
  const ScoreReport& report = of.scores.report;
  const auto finite_or_null = [](std::optional<double> x) {
    return x && std::isfinite(*x) ? nlohmann::ordered_json(*x) : nlohmann::ordered_json(nullptr);
  };
  const auto& summary = of.summary;
  nlohmann::ordered_json json = {
      {"model", of.arguments.model},
      {"input", of.arguments.input},
      {"rows", of.job.rows.count()},
      {"ignored", of.ignored},
      {"vocab_size", of.checkpoint.head.vocab_size},
      {"hidden_size", of.checkpoint.head.weight.cols},
      {"kernel", report.kernel},
      {"arithmetic", arithmetic_name(report.arithmetic)},
      {"threads", report.threads},
      {"seconds", of.scores.seconds},
      {"logit_fallbacks", report.logit_fallbacks},
      {"undecided_rows", report.undecided_rows},
      {"rounds", report.rounds},
      {"mean_logprob", finite_or_null(summary ? std::optional(summary->mean) : std::nullopt)},
      {"perplexity", finite_or_null(summary ? std::optional(summary->perplexity) : std::nullopt)},
      {"digest", of.digest}};
  const std::string support = of.job.support.text(of.checkpoint.head.vocab_size);
  if (!support.empty()) json["support"] = support;
  if (of.scores.ranks > 1) json["ranks"] = of.scores.ranks;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string temperature_text(const ScoreJob& job) {
  if (job.temperature_per_row) return "one per row";
  return job.rows.temperatures.empty() ? "1" : fmt::format("{}", job.rows.temperatures[0]);
}

std::string as_table(const Report& of) {
  const ScoreReport& report = of.scores.report;
  const ScoreJob& job = of.job;
  const auto value = [&](double Summary::*member) {
    return of.summary ? fmt::format("{}", (*of.summary).*member) : std::string("none: no row is scored");
  };
  std::string rows = fmt::format("{}", job.rows.count());
  if (of.arguments.rows) rows += fmt::format(" ({} to {})", job.rows.range.begin, job.rows.range.end - 1);
  if (of.ignored > 0) rows += fmt::format(", {} of them ignored", of.ignored);
  std::vector<std::pair<std::string, std::string>> fields = {
      {"model", of.arguments.model},
      {"head", describe_head(of.checkpoint)},
      {"transforms", transforms_text(of.checkpoint.head.transforms)},
      {"vocabulary", fmt::format("{}", of.checkpoint.head.vocab_size)},
      {"input", fmt::format("{}  hidden_states {} [*, {}]", of.arguments.input, dtype_name(job.rows.hidden.dtype),
                            job.rows.hidden.cols)},
      {"rows", rows},
      {"temperature", temperature_text(job)},
      {"kernel", kernel_text(report.kernel, report.threads, report.arithmetic)},
      {"time", duration_text(of.scores.seconds)},
      {"settled again", fmt::format("{} logits by exact accumulation, {} rows at a wider precision",
                                    report.logit_fallbacks, report.undecided_rows)}};
  const std::string support = job.support.text(of.checkpoint.head.vocab_size);
  if (!support.empty()) fields.emplace_back("support", support);
  if (of.scores.ranks > 1) fields.emplace_back("ranks", fmt::format("{}", of.scores.ranks));
  if (of.arguments.output) fields.emplace_back("output", *of.arguments.output);
  fields.emplace_back("", "");
  fields.emplace_back("mean logprob", value(&Summary::mean));
  fields.emplace_back("perplexity", value(&Summary::perplexity));
  fields.emplace_back("digest", "sha256 " + of.digest);
  return field_table(fields);
}

}  // namespace

std::string score_report(const ScoreArguments& arguments, const io::Checkpoint& checkpoint, const ScoreJob& job,
                         const Scores& scores) {
  std::vector<float> counted;
  for (std::size_t i = 0; i < job.rows.count(); ++i) {
    if (job.token_ids[i] != kIgnore) counted.push_back(scores.logprobs[i]);
  }
  const auto ignored = static_cast<std::int64_t>(job.rows.count() - counted.size());
  const Report report{arguments, checkpoint, job, scores, ignored, summarise(counted), f32_digest(counted)};
  return arguments.json ? as_json(report) : as_table(report);
}

}  // namespace isologit::detail::cli
