// isologit kernels: which kernels are built, which this machine runs, which would be chosen.
#include "isologit/kernels.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/row_options.hpp"
#include "cli/text.hpp"
#include "cli/verbs.hpp"

namespace isologit::detail::cli {
namespace {

std::string as_json(const std::vector<KernelInfo>& list) {
  nlohmann::ordered_json result = {
      {"kernels", nlohmann::ordered_json::array()}, {"chosen", nullptr}, {"chosen_fast", nullptr}};
  for (const KernelInfo& kernel : list) {
    nlohmann::ordered_json entry = {{"name", kernel.name},
                                    {"instruction_set", kernel.instruction_set},
                                    {"arithmetic", arithmetic_name(kernel.arithmetic)},
                                    {"dtypes", nlohmann::ordered_json::array()},
                                    {"runnable", kernel.runnable},
                                    {"why_not", nullptr},
                                    {"chosen", kernel.chosen}};
    for (DType dtype : kernel.dtypes) entry["dtypes"].push_back(dtype_name(dtype));
    if (!kernel.runnable) entry["why_not"] = kernel.why_not;
    if (kernel.chosen) result[kernel.arithmetic == Arithmetic::exact ? "chosen" : "chosen_fast"] = kernel.name;
    result["kernels"].push_back(std::move(entry));
  }
  return result.dump(2) + "\n";
}

// What the table cannot say by itself: that the environment decided.
std::string note(bool any_chosen) {
  const char* forced = std::getenv("ISOLOGIT_KERNEL");
  if (forced == nullptr || *forced == '\0') return "";
  if (any_chosen) return fmt::format("\n  chosen by ISOLOGIT_KERNEL={}\n", forced);
  return fmt::format("\n  none is chosen: ISOLOGIT_KERNEL={} names no kernel that runs here\n", forced);
}

std::string as_table(const std::vector<KernelInfo>& list) {
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "instruction set", "arithmetic", "hidden and weight", "runs here", ""}};
  bool any_chosen = false;
  for (const KernelInfo& kernel : list) {
    std::string dtypes;
    for (DType dtype : kernel.dtypes) dtypes += fmt::format("{}{}", dtypes.empty() ? "" : " ", dtype_name(dtype));
    rows.push_back({kernel.name, kernel.instruction_set, arithmetic_name(kernel.arithmetic), dtypes,
                    kernel.runnable ? "yes" : "no: " + kernel.why_not, kernel.chosen ? "chosen" : ""});
    any_chosen = any_chosen || kernel.chosen;
  }
  return column_table(rows) + note(any_chosen);
}

}  // namespace

VerbRun kernels_verb(Options& options) {
  const auto json = std::make_shared<bool>(false);
  options.about("List the kernels: which are built, which this machine runs, which would be chosen");
  declare_json(options, *json);
  options.footer(
      "Best first; one is chosen for each arithmetic. The choice can be forced by --kernel or by the environment "
      "variable ISOLOGIT_KERNEL.");
  return [json]() -> Outcome<Ending> { return Ending{*json ? as_json(kernels()) : as_table(kernels()), {}}; };
}

}  // namespace isologit::detail::cli
