// The parties that share a vocabulary in a call (isologit/peers.hpp), or the one that has all of it.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "isologit/peers.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::base {

// An exchange that failed; tiles::call tells it as the failure of the call.
class ExchangeError : public std::exception {
 public:
  explicit ExchangeError(Error error) : error_(std::move(error)) {}
  const Error& error() const { return error_; }
  const char* what() const noexcept override { return error_.message.c_str(); }

 private:
  Error error_;
};

// Rows [first, last) of hidden.
struct RowRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

class Parties {
 public:
  // peers: null for one party, which has the whole vocabulary. own_rows: how many ids this one has.
  Parties(const Peers* peers, std::int64_t own_rows) : peers_(peers), own_rows_(own_rows) {}
  Parties(const std::optional<Peers>& peers, std::int64_t own_rows)
      : Parties(peers.has_value() ? &*peers : nullptr, own_rows) {}

  bool several() const { return peers_ != nullptr; }
  // Of this party's rows.
  std::int64_t first_id() const { return peers_ == nullptr ? 0 : peers_->first_id; }
  // Of the whole vocabulary.
  std::int64_t vocab_size() const { return peers_ == nullptr ? own_rows_ : peers_->vocab_size; }

  // Calls read(bytes) with what each party wrote, one after the other in the order of their ids: all that is made of
  // these is the same for every party, bit for bit, so that all take the same decisions. Throws ExchangeError where
  // the parties do not have every id once or are not at the same exchange, and where read returns false or leaves
  // bytes. Only where several().
  void exchange(ByteWriter own, const std::function<bool(ByteReader&)>& read) const;

  // Of rows of hidden those that each party has, by its number; none where all have all. Throws ExchangeError where
  // they do not have every row once. This party is the one of number().
  std::vector<RowRange> own_rows(std::int64_t rows) const;
  std::size_t number() const { return static_cast<std::size_t>(peers_->own_rows->party); }

  // As exchange, but own[p] is read by party p alone. Only where own_rows() has some.
  void scatter(std::vector<ByteWriter> own, const std::function<bool(ByteReader&)>& read) const;

  // The least and the greatest of what the parties have; one's own where there is one.
  std::int64_t least(std::int64_t own) const;
  std::int64_t greatest(std::int64_t own) const { return -least(-own); }

 private:
  void read_all(std::int64_t number, const std::vector<std::vector<std::byte>>& all,
                const std::function<bool(ByteReader&)>& read) const;

  const Peers* peers_;
  std::int64_t own_rows_;
  mutable std::int64_t exchanges_ = 0;  // so far; the same for all
};

}  // namespace isologit::detail::base
