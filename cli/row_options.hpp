// The options of the verbs that work on the rows of an input: which model, rows and ids, and how it is computed.
#pragma once

#include <optional>
#include <string>

#include "cli/command_line.hpp"
#include "cli/model_options.hpp"
#include "cli/parse.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

// As they are given.
struct RowArguments : ModelArguments {
  std::string input;
  std::optional<std::string> output;
  std::optional<std::string> rows;
  std::optional<std::string> vocab;
  std::optional<std::string> temperature;
  std::int64_t threads = 0;
  std::string kernel;
  std::string arithmetic = "exact";
  bool json = false;

  // Declares all but --output.
  void declare(Options& options, const std::string& vocab_help, const std::string& temperature_help);
};

// What they mean; nothing is opened yet.
struct RowOptions {
  ScoreOptions compute;
  std::optional<RowSlice> rows;
  std::optional<RowSlice> vocab;
  std::optional<float> temperature;
};

// `zero` allows a temperature of 0.
Outcome<RowOptions> parse_row_options(const RowArguments& arguments, bool zero = false);

// --kernel names none; says which there are.
tl::unexpected<Failure> unknown_kernel(const std::string& name);

// Declares --threads.
void declare_threads(Options& options, std::int64_t& threads);
// Declares --json.
void declare_json(Options& options, bool& json);

}  // namespace isologit::detail::cli
