// isologit verify: whether the kernels give the right bits on this machine.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench_run.hpp"
#include "cli/digest.hpp"
#include "cli/row_options.hpp"
#include "cli/run_with_progress.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"
#include "cli/verify_properties.hpp"
#include "isologit/kernels.hpp"

namespace isologit::detail::cli {
namespace {

struct Arguments {
  std::string kernel;
  bool all = false;
  bool json = false;
};

// What came of one operation or property on one kernel.
struct Cell {
  bool tried = false;
  std::int64_t elements = 0;
  std::int64_t wrong = 0;
  std::string first;  // the first difference, or the error of a call
};

struct Line {
  std::string name;
  std::string what;  // of a property
  std::vector<Cell> cells;
};

struct Verified {
  std::vector<KernelInfo> kernels;
  std::vector<Line> operations;
  std::vector<Line> properties;
  std::vector<std::pair<std::string, std::string>> digests;  // by family, of the first kernel that is exact
  double seconds = 0;

  bool right() const {
    for (const auto* lines : {&operations, &properties}) {
      for (const Line& line : *lines) {
        for (const Cell& cell : line.cells) {
          if (!cell.first.empty()) return false;
        }
      }
    }
    return true;
  }
};

Outcome<std::vector<KernelInfo>> chosen_kernels(const Arguments& arguments) {
  if (arguments.all && !arguments.kernel.empty())
    return usage_error("--all: not beside --kernel; expected one of them");
  std::vector<KernelInfo> chosen;
  for (const KernelInfo& kernel : isologit::kernels()) {
    if (kernel.name == arguments.kernel && !kernel.runnable) {
      return failure(fmt::format("--kernel: '{}' does not run here: {}", kernel.name, kernel.why_not));
    }
    if (arguments.all ? kernel.runnable : arguments.kernel.empty() ? kernel.chosen : kernel.name == arguments.kernel) {
      chosen.push_back(kernel);
    }
  }
  if (chosen.empty()) {
    if (!arguments.kernel.empty()) return unknown_kernel(arguments.kernel);
    return failure("no kernel is chosen: ISOLOGIT_KERNEL names none that runs here; see isologit kernels");
  }
  return chosen;
}

ScoreOptions options_of(const KernelInfo& kernel) {
  ScoreOptions options;
  options.kernel = kernel.name;
  options.arithmetic = kernel.arithmetic;
  return options;
}

bool is_exact(const KernelInfo& kernel) { return kernel.arithmetic == Arithmetic::exact; }

// An error of a call counts as one.
void add_wrong(Cell& cell, std::int64_t count, const std::string& what) {
  cell.wrong += count;
  if (cell.first.empty()) cell.first = what;
}

void add_compared(Cell& cell, const std::string& where, const Result<void>& done, const Compared& compared) {
  cell.tried = true;
  cell.elements += compared.elements;
  const Difference& differs = compared.difference;
  if (differs.elements != 0) add_wrong(cell, differs.elements, where + differs.first);
  if (!done) add_wrong(cell, 1, where + done.error().message);
}

// By family, of the digests of its operations.
using FamilyDigests = std::array<Digest, std::size(kDataFamilies)>;

// On data of every family, against the digests that are recorded. What differs is looked for beside the reference.
void run_operation(const Operation& operation, const KernelInfo& kernel, Cell& cell, FamilyDigests* digests) {
  cell.tried = true;
  for (const DataFamily family : kDataFamilies) {
    const Result<Results> found = operation.run(family, options_of(kernel));
    if (!found) return add_wrong(cell, 1, found.error().message);
    cell.elements += count_of(*found);
    const std::string digest = digest_of(*found);
    if (digests != nullptr) (*digests)[static_cast<std::size_t>(family)].add(std::as_bytes(std::span(digest)));
    if (digest == golden_digest(operation.name, family)) continue;
    ScoreOptions by_reference;
    by_reference.kernel = "reference";
    const Result<Results> right = operation.run(family, by_reference);
    if (!right) return add_wrong(cell, 1, right.error().message);
    const Difference differs = difference(*found, *right);
    add_wrong(cell, std::max<std::int64_t>(differs.elements, 1),
              fmt::format(
                  "{}: {}", name_of(family),
                  differs.elements != 0 ? differs.first : "the reference agrees, but not the digest that is recorded"));
  }
}

void run_property(const Property& property, const KernelInfo& kernel, Cell& cell) {
  for (const HeadRun& run : head_runs()) {
    if (run.name == "given logits" && !is_exact(kernel)) continue;
    for (const DType dtype : kDataTypes) {
      const HeadCase one = make_head_case(DataFamily::normal, dtype, {18, 70, 21});
      Compared compared;
      const Result<void> done = property.compare(run, one, options_of(kernel), compared);
      add_compared(cell, fmt::format("{} {}: ", dtype_name(dtype), run.name), done, compared);
    }
  }
}

void run_decode(const KernelInfo& kernel, Cell& cell) {
  Compared compared;
  const Result<void> done = compare_decode(options_of(kernel), compared);
  add_compared(cell, "", done, compared);
}

Verified verify(std::vector<KernelInfo> kernels) {
  const auto start = Progress::Clock::now();
  Progress progress(::isatty(STDERR_FILENO) == 1, start, "verifying");
  Verified verified;
  verified.kernels = std::move(kernels);
  const std::size_t steps = (operations().size() + properties().size() + 1) * verified.kernels.size();
  std::size_t step = 0;
  const auto add_line = [&](std::vector<Line>& lines, const char* name, const char* what, auto&& run) {
    Line line{name, what, std::vector<Cell>(verified.kernels.size())};
    for (std::size_t k = 0; k < verified.kernels.size(); ++k) {
      const double share = static_cast<double>(step++) / static_cast<double>(steps);
      std::fputs(progress.update(share, Progress::Clock::now()).c_str(), stderr);
      run(verified.kernels[k], line.cells[k]);
    }
    lines.push_back(std::move(line));
  };
  FamilyDigests digests;
  const auto first_exact = std::find_if(verified.kernels.begin(), verified.kernels.end(), is_exact);
  for (const Operation& operation : operations()) {
    add_line(verified.operations, operation.name, "", [&](const KernelInfo& kernel, Cell& cell) {
      if (is_exact(kernel)) run_operation(operation, kernel, cell, &kernel == &*first_exact ? &digests : nullptr);
    });
  }
  for (const Property& property : properties()) {
    add_line(verified.properties, property.name, property.what,
             [&](const KernelInfo& kernel, Cell& cell) { run_property(property, kernel, cell); });
  }
  add_line(verified.properties, "decode", "attention token by token, in pages",
           [](const KernelInfo& kernel, Cell& cell) {
             if (is_exact(kernel)) run_decode(kernel, cell);
           });
  std::fputs(progress.clear().c_str(), stderr);
  for (const DataFamily family : kDataFamilies) {
    if (first_exact == verified.kernels.end()) break;
    const std::string digest = digests[static_cast<std::size_t>(family)].text();
    verified.digests.emplace_back(name_of(family), digest.substr(0, kDigestLength));
  }
  verified.seconds = std::chrono::duration<double>(Progress::Clock::now() - start).count();
  return verified;
}

std::string cell_text(const Cell& cell, const char* right) {
  if (!cell.tried) return "-";
  if (cell.first.empty()) return right;
  return fmt::format("{} WRONG", cell.wrong);
}

std::vector<std::string> row_of(const Verified& verified, const Line& line, const char* right) {
  std::int64_t elements = 0;
  for (const Cell& cell : line.cells) elements = std::max(elements, cell.elements);
  std::vector<std::string> row = {line.name, std::to_string(elements)};
  for (std::size_t k = 0; k < verified.kernels.size(); ++k) row.push_back(cell_text(line.cells[k], right));
  row.push_back(line.what);
  return row;
}

std::string as_text(const Verified& verified) {
  std::vector<std::vector<std::string>> rows = {{"results", "values"}};
  for (const KernelInfo& kernel : verified.kernels) rows[0].push_back(kernel.name);
  for (const Line& line : verified.operations) rows.push_back(row_of(verified, line, "right"));
  rows.push_back({""});
  rows.push_back({"whatever the", "values"});
  for (const Line& line : verified.properties) rows.push_back(row_of(verified, line, "same"));
  std::string text = column_table(rows);
  for (const auto* lines : {&verified.operations, &verified.properties}) {
    for (const Line& line : *lines) {
      for (std::size_t k = 0; k < verified.kernels.size(); ++k) {
        if (line.cells[k].first.empty()) continue;
        text += fmt::format("\n  {}, {}: {}\n", verified.kernels[k].name, line.name, line.cells[k].first);
      }
    }
  }
  if (!verified.digests.empty()) {
    text += "\n";
    std::vector<std::pair<std::string, std::string>> fields;
    for (const auto& [family, digest] : verified.digests) fields.emplace_back("digest of " + family, digest);
    text += field_table(fields);
  }
  return text + fmt::format("\n  {}: {}, {}\n", processor_name(),
                            verified.right() ? "every bit is right" : "NOT every bit is right",
                            duration_text(verified.seconds));
}

std::string as_json(const Verified& verified) {
  nlohmann::ordered_json json = {{"right", verified.right()}, {"machine", processor_name()}};
  for (const auto& [key, lines] :
       {std::pair{"operations", &verified.operations}, std::pair{"properties", &verified.properties}}) {
    json[key] = nlohmann::ordered_json::array();
    for (const Line& line : *lines) {
      for (std::size_t k = 0; k < verified.kernels.size(); ++k) {
        const Cell& cell = line.cells[k];
        if (!cell.tried) continue;
        nlohmann::ordered_json entry = {{"name", line.name},
                                        {"kernel", verified.kernels[k].name},
                                        {"values", cell.elements},
                                        {"wrong", cell.wrong},
                                        {"first", nullptr}};
        if (!cell.first.empty()) entry["first"] = cell.first;
        json[key].push_back(std::move(entry));
      }
    }
  }
  json["digests"] = nlohmann::ordered_json::object();
  for (const auto& [family, digest] : verified.digests) json["digests"][family] = digest;
  json["seconds"] = verified.seconds;
  return json.dump(2) + "\n";
}

}  // namespace

VerbRun verify_verb(Options& options) {
  const auto arguments = std::make_shared<Arguments>();
  options.about("Check this machine: whether its kernels give the right bits, to the last one");
  options.text("--kernel", "NAME", arguments->kernel, "this kernel alone, of those that `isologit kernels` lists");
  options.flag("--all", arguments->all, "every kernel that runs here; without it those that would be chosen");
  declare_json(options, arguments->json);
  options.footer("Ends with 0 if every bit is right, with 1 if one is not.");
  return [arguments]() -> Outcome<Ending> {
    const auto kernels = chosen_kernels(*arguments);
    if (!kernels) return tl::unexpected(kernels.error());
    const Verified verified = verify(*kernels);
    return Ending{arguments->json ? as_json(verified) : as_text(verified), {}, verified.right() ? 0 : kExitFailure};
  };
}

}  // namespace isologit::detail::cli
