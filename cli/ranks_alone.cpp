// Ranks where the command is built without MPI: a process is alone, or is told that it cannot be one of several.
#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "cli/ranks.hpp"

namespace isologit::detail::cli {

Outcome<Ranks> Ranks::join() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* size = std::getenv(name);
    if (size == nullptr || std::string_view(size) == "1") continue;
    return failure(fmt::format(
        "mpirun started this as one of {} processes, and this isologit was built without MPI; expected a build where "
        "CMake finds MPI, or a start without mpirun",
        size));
  }
  return Ranks(0, 1);
}

std::vector<Ranks::Message> Ranks::gather(Message own) const { return {own}; }
void Ranks::broadcast(std::vector<std::byte>&, int) const {}

}  // namespace isologit::detail::cli
