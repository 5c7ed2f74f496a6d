// A round's state as bytes: a header that names the round and the request's shape, then row by row.

#include <algorithm>
#include <string_view>

#include "base/text.hpp"
#include "kernels/registry.hpp"
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

std::vector<std::byte> Rounds::state() {
  merge_waiting();
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

Result<std::vector<Rounds::ScoredRow>> Rounds::read_state(base::ByteReader& bytes) const {
  const auto refuse = [](std::string_view what) {
    return fail(StatusCode::invalid_argument,
                base::concat("merge: ", what, "; expected a state of the same round and request"));
  };
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
  return others;
}

Result<void> Rounds::merge(std::span<const std::byte> state) {
  base::ByteReader bytes(state);
  if (const auto others = read_state(bytes); !others) return tl::unexpected(others.error());
  waiting_.emplace_back(state.begin(), state.end());
  return {};
}

void Rounds::merge_rows(const std::vector<ScoredRow>& others) {
  // The same loops for all parties, whatever their processors: those of others may round another way.
  const kernels::FoldLoops& loops = kernels::portable_loops().fold;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    ScoredRow& row = rows_[i];
    for (std::size_t c = 0; c < row.captured.size(); ++c) {
      if (others[i].captured[c].seen) row.captured[c] = others[i].captured[c];
    }
    if (phase_ == Phase::first) row.folds.merge(loops, plan_, others[i].folds);
    for (std::size_t d = 0; phase_ == Phase::exact && d < 3; ++d) row.exact[d].merge(others[i].exact[d]);
  }
}

void Rounds::forget_sums() {
  for (ScoredRow& row : rows_) {
    if (phase_ == Phase::first) row.folds = fold::Row(plan_);
    if (phase_ == Phase::exact) row.exact = empty_sums(row);
  }
}

// In the order of their bytes, this party's own among them.
void Rounds::merge_waiting() {
  if (waiting_.empty()) return;
  std::vector<std::vector<std::byte>> all = std::move(waiting_);
  waiting_.clear();
  all.push_back(state());
  const auto text = [](const std::vector<std::byte>& bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  std::sort(all.begin(), all.end(), [&](const auto& a, const auto& b) { return text(a) < text(b); });
  forget_sums();
  for (const std::vector<std::byte>& one : all) {
    base::ByteReader bytes(one);
    merge_rows(*read_state(bytes));
  }
}

void Rounds::exchange(const base::Parties& parties) {
  if (!parties.several()) return;
  base::ByteWriter own;
  own.append(state());
  forget_sums();
  parties.exchange(std::move(own), [&](base::ByteReader& bytes) {
    const auto others = read_state(bytes);
    if (!others) throw base::ExchangeError(others.error());
    merge_rows(*others);
    return true;
  });
}

}  // namespace isologit::detail::score
