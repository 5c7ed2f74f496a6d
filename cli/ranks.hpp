// The processes of one command that mpirun started together: each has a part of the vocabulary, all take part in every
// exchange, and the first of them puts out what they found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/outcome.hpp"
#include "isologit/head.hpp"
#include "isologit/peers.hpp"

namespace isologit::detail::cli {

class Ranks {
 public:
  // To be called once. Of a process that mpirun did not start: it is alone, and nothing here does anything. The others
  // do not end before this process does, so that none is stopped by mpirun before it has put out what it is to.
  static Outcome<Ranks> join();

  bool several() const { return size_ > 1; }
  bool first() const { return rank_ == 0; }
  int size() const { return size_; }

  // Fails on all where `own`, a text, is not the same on all; `what` says what it stands for.
  Outcome<void> agree(const std::string& own, const char* what);
  // This process's part of a head.
  Head part_of(const Head& head) const;
  // What a call on that part is given; none of one that is alone. Not to be outlived by this.
  std::optional<Peers> peers(const Head& head);
  // Of all.
  Outcome<std::int64_t> sum(std::int64_t own);

  // How the command ends, told to the others: a failure of one is one of all, which the first tells.
  Outcome<void> end(const Outcome<void>& own);

 private:
  enum class Kind : std::int64_t { text, state, number, done, failed };
  struct Message {
    Kind kind;
    std::int64_t size;
  };

  Ranks(int rank, int size) : rank_(rank), size_(size) {}

  std::int64_t bound(std::int64_t vocab_size, int rank) const { return vocab_size * rank / size_; }
  // Appends what each process hands in, in the order of ranks. False where one of them failed. What it throws ends this
  // process, and so mpirun the others, which would wait for it.
  bool exchange(Kind kind, std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all) noexcept;
  void note_failure(int rank, std::span<const std::byte> told);
  Outcome<void> lost() const;

  // Over MPI: what each process has in place of its header, and the bytes of one process on all.
  std::vector<Message> gather(Message own) const;
  void broadcast(std::vector<std::byte>& bytes, int from) const;

  int rank_ = 0;
  int size_ = 1;
  std::optional<Failure> failure_;  // of one of them
};

}  // namespace isologit::detail::cli
