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
#include "cli/verify_device.hpp"
#include "cli/verify_properties.hpp"
#include "isologit/kernels.hpp"

namespace isologit::detail::cli {
namespace {

struct Arguments {
  std::string kernel;
  std::string device;
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

// A kernel of the library, or a device of torch.
struct Subject {
  std::string name;
  ScoreOptions options;
  std::vector<Operation> operations;
  ForwardResults decode;
  Device* device = nullptr;  // on which all is computed

  bool is_exact() const { return options.arithmetic == Arithmetic::exact; }
  bool has(const Property& property) const { return device == nullptr || !property.of_library; }
  bool goes_on() const { return noted_signal() == 0 && (device == nullptr || !device->lost()); }
};

struct Verified {
  std::string machine;
  std::vector<Subject> subjects;
  std::vector<Line> operations;
  std::vector<Line> properties;
  std::vector<std::pair<std::string, std::string>> digests;  // by family, of the first subject that is exact
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

std::vector<Operation> own_operations() { return {operations().begin(), operations().end()}; }

Subject subject_of(const KernelInfo& kernel) {
  Subject made{kernel.name, {}, own_operations(), decode_results};
  made.options.kernel = kernel.name;
  made.options.arithmetic = kernel.arithmetic;
  return made;
}

Subject subject_of(const std::string& name, Device& device) {
  return {name, {}, device.operations(), device.decode(), &device};
}

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
void run_operation(const Subject& subject, std::size_t i, Cell& cell, FamilyDigests* digests) {
  cell.tried = true;
  const Operation& operation = subject.operations[i];
  for (const DataFamily family : kDataFamilies) {
    const Result<Results> found = results_of(operation, family, subject.options);
    if (!subject.goes_on()) return;
    if (!found) return add_wrong(cell, 1, found.error().message);
    cell.elements += count_of(*found);
    const std::string digest = digest_of(*found);
    if (digests != nullptr) (*digests)[static_cast<std::size_t>(family)].add(std::as_bytes(std::span(digest)));
    if (digest == golden_digest(operation.name, family)) continue;
    ScoreOptions by_reference;
    by_reference.kernel = "reference";
    const Result<Results> right = results_of(operations()[i], family, by_reference);
    if (!right) return add_wrong(cell, 1, right.error().message);
    const Difference differs = difference(*found, *right);
    add_wrong(cell, std::max<std::int64_t>(differs.elements, 1),
              fmt::format(
                  "{}: {}", name_of(family),
                  differs.elements != 0 ? differs.first : "the reference agrees, but not the digest that is recorded"));
  }
}

void run_property(const Property& property, const Subject& subject, Cell& cell) {
  for (const Operation& operation : subject.operations) {
    if (!operation.head || (operation.name == std::string_view("given logits") && !subject.is_exact())) continue;
    const HeadRun run{operation.name, operation.head};
    for (const DType dtype : kDataTypes) {
      const HeadCase one = make_head_case(DataFamily::normal, dtype, {18, 70, 21});
      Compared compared;
      const Result<void> done = property.compare(run, one, subject.options, compared);
      if (!subject.goes_on()) return;
      add_compared(cell, fmt::format("{} {}: ", dtype_name(dtype), run.name), done, compared);
    }
  }
}

void run_decode(const Subject& subject, Cell& cell) {
  Compared compared;
  const ForwardResults& at_once = subject.operations.back().forward;
  const Result<void> done = compare_decode(at_once, subject.decode, subject.options, compared);
  add_compared(cell, "", done, compared);
}

Outcome<Verified> verify(std::string machine, std::vector<Subject> subjects) {
  const auto start = Progress::Clock::now();
  Progress progress(::isatty(STDERR_FILENO) == 1, start, "verifying");
  Verified verified;
  verified.machine = std::move(machine);
  verified.subjects = std::move(subjects);
  const std::size_t steps = (operations().size() + properties().size() + 1) * verified.subjects.size();
  std::size_t step = 0;
  const auto add_line = [&](std::vector<Line>& lines, const char* name, const char* what, auto&& run) {
    Line line{name, what, std::vector<Cell>(verified.subjects.size())};
    for (std::size_t k = 0; k < verified.subjects.size(); ++k) {
      if (!verified.subjects[k].goes_on()) return;
      const double share = static_cast<double>(step++) / static_cast<double>(steps);
      std::fputs(progress.update(share, Progress::Clock::now()).c_str(), stderr);
      run(verified.subjects[k], line.cells[k]);
    }
    lines.push_back(std::move(line));
  };
  FamilyDigests digests;
  const auto first_exact = std::find_if(verified.subjects.begin(), verified.subjects.end(),
                                        [](const Subject& subject) { return subject.is_exact(); });
  for (std::size_t i = 0; i < operations().size(); ++i) {
    add_line(verified.operations, operations()[i].name, "", [&](const Subject& subject, Cell& cell) {
      if (subject.is_exact()) run_operation(subject, i, cell, &subject == &*first_exact ? &digests : nullptr);
    });
  }
  for (const Property& property : properties()) {
    add_line(verified.properties, property.name, property.what, [&](const Subject& subject, Cell& cell) {
      if (subject.has(property)) run_property(property, subject, cell);
    });
  }
  add_line(verified.properties, "decode", "attention token by token, in pages", [](const Subject& subject, Cell& cell) {
    if (subject.is_exact()) run_decode(subject, cell);
  });
  std::fputs(progress.clear().c_str(), stderr);
  if (noted_signal() != 0) return tl::unexpected(interrupted());
  for (const Subject& subject : verified.subjects) {
    if (!subject.goes_on()) return tl::unexpected(*subject.device->lost());
  }
  for (const DataFamily family : kDataFamilies) {
    if (first_exact == verified.subjects.end()) break;
    const std::string digest = digests[static_cast<std::size_t>(family)].text();
    verified.digests.emplace_back(name_of(family), digest.substr(0, kDigestLength));
  }
  verified.seconds = std::chrono::duration<double>(Progress::Clock::now() - start).count();
  return verified;
}

Outcome<Verified> verify_what_is_asked(const Arguments& arguments) {
  note_signals();
  if (!arguments.device.empty()) {
    if (arguments.all || !arguments.kernel.empty()) {
      return usage_error("--device: not beside --kernel or --all; expected one of them");
    }
    auto device = Device::start(arguments.device);
    if (!device) return tl::unexpected(device.error());
    return verify(device->title(), {subject_of(arguments.device, *device)});
  }
  const auto kernels = chosen_kernels(arguments);
  if (!kernels) return tl::unexpected(kernels.error());
  std::vector<Subject> subjects;
  for (const KernelInfo& kernel : *kernels) subjects.push_back(subject_of(kernel));
  return verify(processor_name(), std::move(subjects));
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
  for (std::size_t k = 0; k < verified.subjects.size(); ++k) row.push_back(cell_text(line.cells[k], right));
  row.push_back(line.what);
  return row;
}

std::string as_text(const Verified& verified) {
  std::vector<std::vector<std::string>> rows = {{"results", "values"}};
  for (const Subject& subject : verified.subjects) rows[0].push_back(subject.name);
  for (const Line& line : verified.operations) rows.push_back(row_of(verified, line, "right"));
  rows.push_back({""});
  rows.push_back({"whatever the", "values"});
  for (const Line& line : verified.properties) rows.push_back(row_of(verified, line, "same"));
  std::string text = column_table(rows);
  for (const auto* lines : {&verified.operations, &verified.properties}) {
    for (const Line& line : *lines) {
      for (std::size_t k = 0; k < verified.subjects.size(); ++k) {
        if (line.cells[k].first.empty()) continue;
        text += fmt::format("\n  {}, {}: {}\n", verified.subjects[k].name, line.name, line.cells[k].first);
      }
    }
  }
  if (!verified.digests.empty()) {
    text += "\n";
    std::vector<std::pair<std::string, std::string>> fields;
    for (const auto& [family, digest] : verified.digests) fields.emplace_back("digest of " + family, digest);
    text += field_table(fields);
  }
  return text + fmt::format("\n  {}: {}, {}\n", verified.machine,
                            verified.right() ? "every bit is right" : "NOT every bit is right",
                            duration_text(verified.seconds));
}

std::string as_json(const Verified& verified) {
  nlohmann::ordered_json json = {{"right", verified.right()}, {"machine", verified.machine}};
  for (const auto& [key, lines] :
       {std::pair{"operations", &verified.operations}, std::pair{"properties", &verified.properties}}) {
    json[key] = nlohmann::ordered_json::array();
    for (const Line& line : *lines) {
      for (std::size_t k = 0; k < verified.subjects.size(); ++k) {
        const Cell& cell = line.cells[k];
        if (!cell.tried) continue;
        nlohmann::ordered_json entry = {{"name", line.name},
                                        {"kernel", verified.subjects[k].name},
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
  options.text("--device", "NAME", arguments->device,
               "in place of kernels, a device of torch: cuda, cuda:1, xpu, or cpu for the torch backend; in Python");
  declare_json(options, arguments->json);
  options.footer("Ends with 0 if every bit is right, with 1 if one is not.");
  return [arguments]() -> Outcome<Ending> {
    const auto verified = verify_what_is_asked(*arguments);
    if (!verified) return tl::unexpected(verified.error());
    return Ending{arguments->json ? as_json(*verified) : as_text(*verified), {}, verified->right() ? 0 : kExitFailure};
  };
}

}  // namespace isologit::detail::cli
