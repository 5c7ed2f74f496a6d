// The options that say which model a verb works on, and what its head is where that is not known.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/command_line.hpp"
#include "io/checkpoint.hpp"

namespace isologit::detail::cli {

struct ModelArguments {
  std::string model;
  std::string head;
  std::optional<std::string> softcap;
  std::optional<std::string> scale;
  std::optional<std::string> divide;
  std::int64_t vocab_size = 0;  // 0: not given
  bool assume_plain_head = false;
  std::string adapter;
  std::string f8 = "real";

  // Declares MODEL and these options.
  void declare_model(Options& options);
};

// The model that the arguments name.
Outcome<io::Checkpoint> open_model(const ModelArguments& arguments);

}  // namespace isologit::detail::cli
