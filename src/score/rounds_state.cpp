// A round's state as bytes: a header that names the round and the request's shape, then row by row.

#include "base/text.hpp"
#include "score/rounds.hpp"

namespace isologit::detail::score {
namespace {

constexpr std::uint32_t kMagic = 0x32534C49;  // "ILS2"; the digit is the layout's version

// The name of a kernel of fast arithmetic, whose bits no other may be mixed with; empty for exact ones.
using Maker = std::array<char, 32>;

Maker maker(const kernels::Target& target) {
  Maker name{};
  if (target.arithmetic() == Arithmetic::fast) target.name().copy(name.data(), name.size() - 1);
  return name;
}

}  // namespace

std::vector<std::byte> Rounds::state() const {
  base::ByteWriter bytes;
  bytes.put(kMagic);
  for (const char letter : maker(target_)) bytes.put(letter);
  bytes.put(static_cast<std::uint8_t>(phase_));
  bytes.put(static_cast<std::uint64_t>(limbs_));
  bytes.put(static_cast<std::uint64_t>(rows_.size()));
  for (const ScoredRow& row : rows_) {
    bytes.put(row.index);
    for (const IdLogit& captured : row.captured) {
      bytes.put(static_cast<std::uint8_t>(captured.seen));
      bytes.put(captured.raw);
      bytes.put(captured.logit);
    }
    if (phase_ == Phase::first) row.folds.write(plan_, bytes);
    if (phase_ == Phase::exact) {
      for (const fold::ExactDistribution& sums : row.exact) sums.write(bytes);
    }
  }
  return bytes.take();
}

Result<void> Rounds::merge(std::span<const std::byte> state) {
  const auto refuse = [](std::string_view what) {
    return fail(StatusCode::invalid_argument,
                base::concat("merge: ", what, "; expected a state of the same round and request"));
  };
  base::ByteReader bytes(state);
  std::uint32_t magic = 0;
  std::uint8_t phase = 0;
  std::uint64_t limbs = 0;
  std::uint64_t rows = 0;
  if (!bytes.get(magic) || magic != kMagic) return refuse("these bytes are not a state");
  for (const char letter : maker(target_)) {
    char found = 0;
    if (!bytes.get(found) || found != letter) return refuse("a state of another arithmetic");
  }
  if (!bytes.get(phase) || !bytes.get(limbs) || phase != static_cast<std::uint8_t>(phase_) || limbs != limbs_) {
    return refuse("a state of another round");
  }
  if (!bytes.get(rows) || rows != rows_.size())
    return refuse(base::concat(rows, " rows where this party has ", rows_.size()));
  // Everything is read before anything is merged, so a refused state changes nothing.
  std::vector<ScoredRow> others;
  others.reserve(rows_.size());
  for (const ScoredRow& row : rows_) {
    ScoredRow other = new_row(row.index);
    std::int64_t index = 0;
    bool read = bytes.get(index) && index == row.index;
    for (IdLogit& captured : other.captured) {
      std::uint8_t seen = 0;
      read = read && bytes.get(seen) && bytes.get(captured.raw) && bytes.get(captured.logit);
      captured.seen = seen != 0;
    }
    if (phase_ == Phase::first) read = read && other.folds.read(plan_, bytes);
    if (phase_ == Phase::exact) {
      other.exact = empty_sums(row);
      for (fold::ExactDistribution& sums : other.exact) read = read && sums.read(bytes);
    }
    if (!read) return refuse(base::concat("the state of row ", row.index, " is damaged"));
    others.push_back(std::move(other));
  }
  if (bytes.left() != 0) return refuse(base::concat(bytes.left(), " bytes too many"));
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    ScoredRow& row = rows_[i];
    for (std::size_t c = 0; c < row.captured.size(); ++c) {
      if (others[i].captured[c].seen) row.captured[c] = others[i].captured[c];
    }
    if (phase_ == Phase::first) row.folds.merge(target_.fold_loops(), plan_, others[i].folds);
    for (std::size_t d = 0; phase_ == Phase::exact && d < 3; ++d) row.exact[d].merge(others[i].exact[d]);
  }
  return {};
}

}  // namespace isologit::detail::score
