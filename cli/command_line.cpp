#include "cli/command_line.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <sstream>

#include "base/text.hpp"
#include "cli/python_verbs.hpp"
#include "isologit/version.hpp"

namespace isologit::detail::cli {
namespace {

template <class T>
CLI::Option* add_list(CLI::App& command, const char* name, const char* type, std::vector<T>& values,
                      const std::string& help) {
  return command.add_option(name, values, help)->type_name(type)->delimiter(',')->allow_extra_args(false);
}

// --help and --version end parsing as well, with code 0.
Outcome<Ending> end_parsing(const CLI::App& app, const CLI::ParseError& end) {
  if (end.get_exit_code() == 0) {
    std::ostringstream out;
    app.exit(end, out, out);
    return Ending{out.str(), {}};
  }
  std::string command = "isologit";
  for (const CLI::App* verb : app.get_subcommands()) command += " " + verb->get_name();
  std::string what = end.what();
  if (app.get_subcommands().empty()) {
    std::vector<std::string> verbs;
    for (const CLI::App* verb : app.get_subcommands(nullptr)) verbs.push_back(verb->get_name());
    verbs.insert(verbs.end(), kPythonVerbs.begin(), kPythonVerbs.end());
    const std::vector<std::string> words = app.remaining();
    what = fmt::format("{}; expected one of {}", words.empty() ? "no verb" : "verb '" + words.front() + "' is unknown",
                       base::join(verbs, ", "));
  }
  return usage_error(fmt::format("{}\nRun '{} --help' for how it is used.", what, command));
}

}  // namespace

void Options::about(const std::string& text) { command_.description(text); }

void Options::footer(const std::string& text) { command_.footer(text); }

void Options::required(const char* name, const char* type, std::string& value, const std::string& help) {
  command_.add_option(name, value, help)->required()->type_name(type);
}

void Options::required(const char* name, const char* type, std::optional<std::string>& value, const std::string& help) {
  command_.add_option(name, value, help)->required()->type_name(type);
}

void Options::text(const char* name, const char* type, std::string& value, const std::string& help) {
  command_.add_option(name, value, help)->type_name(type);
}

void Options::text(const char* name, const char* type, std::optional<std::string>& value, const std::string& help) {
  command_.add_option(name, value, help)->type_name(type);
}

void Options::choice(const char* name, const char* type, std::string& value, const std::vector<std::string>& choices,
                     const std::string& help) {
  command_.add_option(name, value, help)->type_name(type)->check(CLI::IsMember(choices));
}

void Options::integer(const char* name, const char* type, std::int64_t& value, std::int64_t least, std::int64_t most,
                      const std::string& help) {
  command_.add_option(name, value, help)->type_name(type)->check(CLI::Range(least, most));
}

void Options::positive(const char* name, const char* type, double& value, const std::string& help) {
  command_.add_option(name, value, help)->type_name(type)->check(CLI::PositiveNumber);
}

void Options::flag(const char* name, bool& value, const std::string& help) { command_.add_flag(name, value, help); }

void Options::list(const char* name, const char* type, std::vector<std::string>& values, const std::string& help) {
  add_list(command_, name, type, values, help);
}

void Options::list(const char* name, const char* type, std::vector<std::string>& values,
                   const std::vector<std::string>& choices, const std::string& help) {
  add_list(command_, name, type, values, help)->check(CLI::IsMember(choices));
}

void Options::list(const char* name, const char* type, std::vector<std::int64_t>& values, std::int64_t least,
                   std::int64_t most, const std::string& help) {
  add_list(command_, name, type, values, help)->check(CLI::Range(least, most));
}

Outcome<Ending> run_command_line(std::span<const Verb> verbs, int argc, char** argv) {
  CLI::App app(
      "The last layer of a language model with one right answer: every result is the real number, rounded once",
      "isologit");
  app.set_version_flag("--version", "isologit " ISOLOGIT_VERSION);
  app.require_subcommand(1);
  app.footer(fmt::format("In the Python package, to which these are handed over: {}, verify --head",
                         base::join(kPythonVerbs, ", ")));
  std::vector<std::pair<const CLI::App*, VerbRun>> runs;
  for (const Verb& verb : verbs) {
    CLI::App* command = app.add_subcommand(verb.name);
    Options options(*command);
    runs.emplace_back(command, verb.declare(options));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& end) {
    return end_parsing(app, end);
  }
  for (const auto& [command, run] : runs) {
    if (command->parsed()) return run();
  }
  return usage_error("no verb");  // which parse() does not let through
}

}  // namespace isologit::detail::cli
