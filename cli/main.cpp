// The isologit command: runs what the command line asks for and puts out what that gave.
#include <fmt/format.h>

#include <exception>
#include <new>

#include "cli/output.hpp"
#include "cli/python_verbs.hpp"
#include "cli/signals.hpp"
#include "cli/verbs.hpp"

namespace isologit::detail::cli {
namespace {

constexpr Verb kVerbs[] = {{"score", score_verb},  {"sample", sample_verb},   {"logits", logits_verb},
                           {"info", info_verb},    {"kernels", kernels_verb}, {"bench", bench_verb},
                           {"verify", verify_verb}};

int run(int argc, char** argv) {
  try {
    if (is_python_verb(argc, argv)) return end_run(tl::unexpected(become_python(argc, argv)));
    return end_run(run_command_line(kVerbs, argc, argv));
  } catch (const std::bad_alloc&) {
    return end_run(failure("out of memory"));
  } catch (const std::exception& error) {
    return end_run(failure(fmt::format("unexpected: {}", error.what())));
  }
}

}  // namespace
}  // namespace isologit::detail::cli

int main(int argc, char** argv) {
  isologit::detail::cli::prepare_process();
  return isologit::detail::cli::run(argc, argv);
}
