// The isologit command: runs what the command line asks for and puts out what that gave.
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
  return end_run(caught([=]() -> Outcome<Ending> {
    if (is_python_verb(argc, argv)) return tl::unexpected(become_python(argc, argv));
    return run_command_line(kVerbs, argc, argv);
  }));
}

}  // namespace
}  // namespace isologit::detail::cli

int main(int argc, char** argv) {
  isologit::detail::cli::prepare_process();
  return isologit::detail::cli::run(argc, argv);
}
