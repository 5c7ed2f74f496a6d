// Ranks over MPI, whose own errors end all processes.
#include <mpi.h>

#include <algorithm>
#include <cstdlib>

#include "cli/ranks.hpp"

namespace isologit::detail::cli {

Outcome<Ranks> Ranks::join() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && std::getenv("PMI_SIZE") == nullptr) return Ranks(0, 1);
  ::MPI_Init(nullptr, nullptr);
  int rank = 0;
  int size = 1;
  ::MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ::MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int registered = std::atexit([] {
    ::MPI_Barrier(MPI_COMM_WORLD);
    ::MPI_Finalize();
  });
  if (registered != 0) ::MPI_Abort(MPI_COMM_WORLD, kExitFailure);
  return Ranks(rank, size);
}

std::vector<Ranks::Message> Ranks::gather(Message own) const {
  std::vector<Message> all(static_cast<std::size_t>(size_));
  ::MPI_Allgather(&own, sizeof own, MPI_BYTE, all.data(), sizeof own, MPI_BYTE, MPI_COMM_WORLD);
  return all;
}

void Ranks::broadcast(std::vector<std::byte>& bytes, int from) const {
  constexpr std::size_t kMost = std::size_t{1} << 30;  // MPI counts in int
  for (std::size_t begin = 0; begin < bytes.size(); begin += kMost) {
    const auto count = static_cast<int>(std::min(kMost, bytes.size() - begin));
    ::MPI_Bcast(bytes.data() + begin, count, MPI_BYTE, from, MPI_COMM_WORLD);
  }
}

}  // namespace isologit::detail::cli
