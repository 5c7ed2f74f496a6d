#include "cli/row_options.hpp"

#include <fmt/format.h>

#include "isologit/kernels.hpp"

namespace isologit::detail::cli {
namespace {

Outcome<ScoreOptions> parse_compute_options(const RowArguments& arguments) {
  ScoreOptions options;
  options.threads = static_cast<int>(arguments.threads);
  options.kernel = arguments.kernel;
  options.arithmetic = arguments.arithmetic == "fast" ? Arithmetic::fast : Arithmetic::exact;
  if (options.kernel.empty()) return options;
  for (const KernelInfo& info : kernels()) {
    if (info.name == options.kernel && info.arithmetic == options.arithmetic) return options;
    if (info.name == options.kernel) {
      return usage_error(fmt::format("--kernel: '{}' is of {} arithmetic; --arithmetic is {}", options.kernel,
                                     arithmetic_name(info.arithmetic), arguments.arithmetic));
    }
  }
  return unknown_kernel(options.kernel);
}

// Parses the text of an option, if it is given.
template <class T, class Parse>
Outcome<void> parse_given(const std::optional<std::string>& text, Parse&& parse, std::optional<T>& value) {
  if (!text) return {};
  const Outcome<T> parsed = parse(*text);
  if (!parsed) return tl::unexpected(parsed.error());
  value = *parsed;
  return {};
}

}  // namespace

tl::unexpected<Failure> unknown_kernel(const std::string& name) {
  std::string known;
  for (const KernelInfo& info : kernels()) known += fmt::format("{}{}", known.empty() ? "" : ", ", info.name);
  return usage_error(fmt::format("--kernel: '{}' is unknown; known are {}", name, known));
}

void RowArguments::declare(Options& options, const std::string& vocab_help, const std::string& temperature_help) {
  declare_model(options);
  options.required("--input", "FILE", input, "The captured rows");
  options.text("--rows", "A:B", rows, "Only rows A to B - 1, counted from 0; A or B may be left out");
  options.text("--vocab", "A:B", vocab, vocab_help + "; A or B may be left out");
  options.text("--temperature", "T", temperature, temperature_help);
  declare_threads(options, threads);
  options.text("--kernel", "NAME", kernel, "A kernel of `isologit kernels` instead of the best");
  options.choice("--arithmetic", "exact|fast", arithmetic, {"exact", "fast"},
                 "exact, the default: logits rounded once; fast: accumulated in f32, with other bits on other kernels");
  declare_json(options, json);
}

Outcome<RowOptions> parse_row_options(const RowArguments& arguments, bool zero) {
  RowOptions options;
  const auto temperature = [zero](const std::string& text) { return parse_temperature(text, zero); };
  return parse_given(arguments.temperature, temperature, options.temperature)
      .and_then([&] { return parse_given(arguments.rows, parse_rows, options.rows); })
      .and_then([&] { return parse_given(arguments.vocab, parse_ids, options.vocab); })
      .and_then([&] { return parse_compute_options(arguments); })
      .map([&](const ScoreOptions& compute) { options.compute = compute; })
      .map([&] { return options; });
}

void declare_threads(Options& options, std::int64_t& threads) {
  options.integer("--threads", "N", threads, 0, 1024, "Threads, 1 to 1024; 0, the default: all this process may use");
}

void declare_json(Options& options, bool& json) {
  options.flag("--json", json, "Print one JSON object instead of a table");
}

}  // namespace isologit::detail::cli
