#include "cli/ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace isologit::detail::cli {
namespace {

std::vector<std::byte> bytes_of(const void* data, std::size_t size) {
  const auto* first = static_cast<const std::byte*>(data);
  return {first, first + size};
}

const void* moved(const void* data, std::int64_t elements, std::size_t size) {
  return static_cast<const std::byte*>(data) + elements * static_cast<std::int64_t>(size);
}

}  // namespace

Head Ranks::part_of(const Head& head) const {
  if (!several()) return head;
  const std::int64_t begin = bound(head.vocab_size, rank_);
  const std::int64_t rows = bound(head.vocab_size, rank_ + 1) - begin;
  Head part = head;
  part.vocab_size = part.weight.rows = rows;
  const std::int64_t elements = begin * head.weight.row_stride;
  if (head.encoded.encoding == Encoding::none) {
    part.weight.data = moved(head.weight.data, elements, dtype_size(head.weight.dtype));
  } else {
    part.encoded.data = moved(head.encoded.data, elements, head.encoded.encoding == Encoding::f64 ? 8 : 1);
    if (head.encoded.scales.values.data != nullptr) part.encoded.scales.first_row += begin;
  }
  if (head.bias.data != nullptr) {
    part.bias.data = moved(head.bias.data, begin, dtype_size(head.bias.dtype));
    part.bias.size = rows;
  }
  if (head.lora.a.rows > 0) {
    part.lora.b.data = moved(head.lora.b.data, begin * head.lora.b.row_stride, dtype_size(head.lora.b.dtype));
    part.lora.b.rows = rows;
  }
  return part;
}

std::optional<Peers> Ranks::peers(const Head& head) {
  if (!several()) return std::nullopt;
  return Peers{bound(head.vocab_size, rank_), head.vocab_size,
               [this](std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all) {
                 return exchange(Kind::state, own, all);
               }};
}

Outcome<void> Ranks::agree(const std::string& own, const char* what) {
  if (!several()) return {};
  std::vector<std::vector<std::byte>> all;
  if (!exchange(Kind::text, std::as_bytes(std::span(own)), all)) return lost();
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    const std::string told = fmt::format(
        "{} differ between process 0 and process {} of mpirun; expected all {} to be started with the same arguments "
        "and to find the same files",
        what, rank, size_);
    failure_ = Failure{kExitFailure, told};
    return lost();
  }
  return {};
}

Outcome<std::int64_t> Ranks::sum(std::int64_t own) {
  if (!several()) return own;
  std::vector<std::vector<std::byte>> all;
  if (!exchange(Kind::number, bytes_of(&own, sizeof own), all)) return tl::unexpected(*failure_);
  std::int64_t total = 0;
  for (const std::vector<std::byte>& one : all) {
    std::int64_t number = 0;
    std::memcpy(&number, one.data(), sizeof number);
    total += number;
  }
  return total;
}

Outcome<void> Ranks::end(const Outcome<void>& own) {
  if (!several()) return own;
  std::vector<std::vector<std::byte>> all;
  if (failure_) return lost();
  if (own && exchange(Kind::done, {}, all)) return {};
  if (!own) {
    std::vector<std::byte> told = bytes_of(&own.error().exit_code, sizeof own.error().exit_code);
    const std::vector<std::byte> message = bytes_of(own.error().message.data(), own.error().message.size());
    told.insert(told.end(), message.begin(), message.end());
    exchange(Kind::failed, told, all);
  }
  return lost();
}

bool Ranks::exchange(Kind kind, std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all) noexcept {
  const std::vector<Message> messages = gather({kind, static_cast<std::int64_t>(own.size())});
  const bool failed = std::any_of(messages.begin(), messages.end(), [](Message m) { return m.kind == Kind::failed; });
  for (int rank = 0; rank < size_; ++rank) {
    const Message& message = messages[static_cast<std::size_t>(rank)];
    if (failed && message.kind != Kind::failed) continue;
    std::vector<std::byte> bytes(static_cast<std::size_t>(message.size));
    if (rank == rank_) std::copy(own.begin(), own.end(), bytes.begin());
    broadcast(bytes, rank);
    if (failed) {
      note_failure(rank, bytes);
    } else if (message.kind != messages[0].kind) {
      failure_ = Failure{kExitFailure, fmt::format("process {} of mpirun is not where process 0 is", rank)};
    }
    all.push_back(std::move(bytes));
  }
  return !failure_;
}

void Ranks::note_failure(int rank, std::span<const std::byte> told) {
  if (failure_) return;
  Failure failure;
  std::memcpy(&failure.exit_code, told.data(), sizeof failure.exit_code);
  const std::span<const std::byte> text = told.subspan(sizeof failure.exit_code);
  std::string message(text.size(), ' ');
  std::memcpy(message.data(), text.data(), text.size());
  failure.message = rank == 0 ? message : fmt::format("process {} of mpirun: {}", rank, message);
  failure_ = failure;
}

// The first tells it; of the others there is nothing more to tell.
Outcome<void> Ranks::lost() const { return tl::unexpected(first() ? *failure_ : Failure{failure_->exit_code, ""}); }

}  // namespace isologit::detail::cli
