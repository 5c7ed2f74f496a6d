#include "cli/how.hpp"

#include <fmt/format.h>

#include "isologit/kernels.hpp"

namespace isologit::detail::cli {

void How::add_to(CLI::App& command) {
  command.add_option("--threads", threads, "Threads, 1 to 1024; 0, the default: all this process may use")
      ->type_name("N")
      ->check(CLI::Range(0, 1024));
  command.add_option("--kernel", kernel, "A kernel of `isologit kernels` instead of the best")->type_name("NAME");
  command
      .add_option("--arithmetic", arithmetic,
                  "exact, the default: logits rounded once; fast: accumulated in f32, with other bits on other kernels")
      ->type_name("exact|fast")
      ->check(CLI::IsMember({"exact", "fast"}));
}

Outcome<ScoreOptions> How::options() const {
  ScoreOptions options;
  options.threads = threads;
  options.kernel = kernel;
  options.arithmetic = arithmetic == "fast" ? Arithmetic::fast : Arithmetic::exact;
  if (kernel.empty()) return options;
  std::string known;
  for (const KernelInfo& info : kernels()) {
    if (info.name == kernel && info.arithmetic == options.arithmetic) return options;
    if (info.name == kernel) {
      return usage_error(fmt::format("--kernel: '{}' is of {} arithmetic; --arithmetic is {}", kernel,
                                     arithmetic_name(info.arithmetic), arithmetic));
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", info.name);
  }
  return usage_error(fmt::format("--kernel: '{}' is unknown; known are {}", kernel, known));
}

std::string how_text(const std::string& kernel, int threads, Arithmetic arithmetic) {
  return fmt::format("{}, threads {}, {} arithmetic", kernel, threads, arithmetic_name(arithmetic));
}

}  // namespace isologit::detail::cli
