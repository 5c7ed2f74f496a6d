// The command line: how a verb declares its options, and which verb it asks for. CLI11, which takes long to compile, is
// used by one file alone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/output.hpp"

namespace CLI {
class App;
}

namespace isologit::detail::cli {

// Where a verb declares its options. `type` is what help shows in the place of the value. What is declared is filled in
// when the command line is read, so it must live until then.
class Options {
 public:
  explicit Options(CLI::App& command) : command_(command) {}

  void about(const std::string& text);   // in a line
  void footer(const std::string& text);  // below the options

  void required(const char* name, const char* type, std::string& value, const std::string& help);
  void required(const char* name, const char* type, std::optional<std::string>& value, const std::string& help);
  void text(const char* name, const char* type, std::string& value, const std::string& help);
  void text(const char* name, const char* type, std::optional<std::string>& value, const std::string& help);
  void choice(const char* name, const char* type, std::string& value, const std::vector<std::string>& choices,
              const std::string& help);
  void integer(const char* name, const char* type, std::int64_t& value, std::int64_t least, std::int64_t most,
               const std::string& help);
  void positive(const char* name, const char* type, double& value, const std::string& help);
  void flag(const char* name, bool& value, const std::string& help);
  // Values with commas between them.
  void list(const char* name, const char* type, std::vector<std::string>& values, const std::string& help);
  void list(const char* name, const char* type, std::vector<std::string>& values,
            const std::vector<std::string>& choices, const std::string& help);
  void list(const char* name, const char* type, std::vector<std::int64_t>& values, std::int64_t least,
            std::int64_t most, const std::string& help);

 private:
  CLI::App& command_;
};

using VerbRun = std::function<Outcome<Ending>()>;

struct Verb {
  const char* name;
  VerbRun (*declare)(Options& options);
};

// Reads the command line and runs the verb that it names.
Outcome<Ending> run_command_line(std::span<const Verb> verbs, int argc, char** argv);

}  // namespace isologit::detail::cli
