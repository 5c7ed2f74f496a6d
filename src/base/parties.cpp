#include "base/parties.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/text.hpp"

namespace isologit::detail::base {
namespace {

constexpr std::uint32_t kMagic = 0x31504C49;  // "ILP1"; the digit is the layout's version

// What stands before a party's bytes.
struct Header {
  std::int64_t first_id = 0;
  std::int64_t rows = 0;
  std::int64_t vocab_size = 0;
  std::int64_t exchange = 0;

  void write(ByteWriter& bytes) const {
    bytes.put(kMagic);
    for (const std::int64_t number : {first_id, rows, vocab_size, exchange}) bytes.put(number);
  }
  bool read(ByteReader& bytes) {
    std::uint32_t magic = 0;
    return bytes.get(magic) && magic == kMagic && bytes.get_count(first_id) && bytes.get_count(rows) &&
           bytes.get(vocab_size) && bytes.get_count(exchange);
  }
};

struct Message {
  Header header;
  ByteReader bytes;
};

[[noreturn]] void refuse(const std::string& problem) {
  throw ExchangeError({StatusCode::invalid_argument, concat("peers: ", problem)});
}

std::string range_of(const Header& header) {
  return concat("[", header.first_id, ", ", header.first_id + header.rows, ")");
}

// Ordered by ids; parties without any may stand anywhere.
void check_vocabulary(const std::vector<Message>& messages, std::int64_t vocab_size) {
  std::int64_t next = 0;
  for (const Message& message : messages) {
    const Header& party = message.header;
    if (party.vocab_size != vocab_size) {
      refuse(concat("the party of ids ", range_of(party), " has a vocabulary of ", party.vocab_size,
                    ", and this one of ", vocab_size, "; expected the same for all"));
    }
    if (party.rows == 0) continue;
    if (party.first_id != next) {
      refuse(concat("a party has ids ", range_of(party), ", and the ones before it those up to ", next,
                    "; expected every id of the vocabulary [0, ", vocab_size, ") once"));
    }
    next += party.rows;
  }
  if (next != vocab_size) {
    refuse(concat("the parties have ids [0, ", next, "); expected all of the vocabulary [0, ", vocab_size, ")"));
  }
}

// Parties without any may stand anywhere.
void check_rows(std::vector<RowRange> ranges, std::int64_t rows) {
  std::sort(ranges.begin(), ranges.end(), [](const RowRange& a, const RowRange& b) {
    return std::pair(a.first, a.last) < std::pair(b.first, b.last);
  });
  std::int64_t next = 0;
  for (const RowRange& range : ranges) {
    if (range.first == range.last) continue;
    if (range.first != next || range.last < range.first) {
      refuse(concat("own_rows: a party has first_row ", range.first, " and last_row ", range.last,
                    ", and those before it have rows up to ", next, "; expected every row of hidden [0, ", rows,
                    ") once"));
    }
    next = range.last;
  }
  if (next != rows) {
    refuse(concat("own_rows: the parties have rows up to last_row ", next, "; expected every row of hidden [0, ", rows,
                  ") once"));
  }
}

}  // namespace

void Parties::exchange(ByteWriter own, const std::function<bool(ByteReader&)>& read) const {
  const Header header{first_id(), own_rows_, vocab_size(), exchanges_++};
  ByteWriter message;
  header.write(message);
  message.append(own.take());
  std::vector<std::vector<std::byte>> all;
  if (!peers_->gather(message.take(), all)) {
    throw ExchangeError({StatusCode::cancelled, "peers: gather failed, so the parties' states were not exchanged"});
  }
  read_all(header.exchange, all, read);
}

void Parties::scatter(std::vector<ByteWriter> own, const std::function<bool(ByteReader&)>& read) const {
  const Header header{first_id(), own_rows_, vocab_size(), exchanges_++};
  std::vector<std::vector<std::byte>> messages;
  for (ByteWriter& bytes : own) {
    ByteWriter message;
    header.write(message);
    message.append(bytes.take());
    messages.push_back(message.take());
  }
  std::vector<std::vector<std::byte>> all;
  if (!peers_->own_rows->scatter(messages, all)) {
    throw ExchangeError({StatusCode::cancelled, "peers: scatter failed, so the parties' sums were not exchanged"});
  }
  read_all(header.exchange, all, read);
}

void Parties::read_all(std::int64_t number, const std::vector<std::vector<std::byte>>& all,
                       const std::function<bool(ByteReader&)>& read) const {
  std::vector<Message> messages;
  for (const std::vector<std::byte>& one : all) {
    Message from{{}, ByteReader(one)};
    if (!from.header.read(from.bytes)) {
      refuse("a party sent what is no state; expected all parties to make the same call, with one version of isologit");
    }
    if (from.header.exchange != number) {
      refuse(concat("the party of ids ", range_of(from.header), " is at exchange ", from.header.exchange,
                    " of its call, and this one at ", number, "; expected the same call of all parties"));
    }
    messages.push_back(from);
  }
  std::sort(messages.begin(), messages.end(), [](const Message& a, const Message& b) {
    return a.header.first_id != b.header.first_id ? a.header.first_id < b.header.first_id
                                                  : a.header.rows < b.header.rows;
  });
  check_vocabulary(messages, vocab_size());
  for (Message& from : messages) {
    if (read(from.bytes) && from.bytes.left() == 0) continue;
    refuse(concat("what the party of ids ", range_of(from.header),
                  " sent is no state of this call; expected all parties to make it with the same request"));
  }
}

std::vector<RowRange> Parties::own_rows(std::int64_t rows) const {
  struct Owner {
    std::int64_t party = 0;
    RowRange rows;
  };
  std::vector<Owner> owners;
  ByteWriter own;
  if (peers_->own_rows) {
    for (const std::int64_t number : {peers_->own_rows->party, peers_->own_rows->first_row, peers_->own_rows->last_row})
      own.put(number);
  }
  std::size_t parties = 0;
  exchange(std::move(own), [&](ByteReader& from) {
    ++parties;
    if (from.left() == 0) return true;
    Owner& owner = owners.emplace_back();
    return from.get_count(owner.party) && from.get_count(owner.rows.first) && from.get_count(owner.rows.last);
  });
  if (owners.empty()) return {};
  if (owners.size() != parties) refuse("own_rows: given by some parties and not by others; expected all or none");
  std::vector<RowRange> ranges(parties, {-1, -1});
  for (const Owner& owner : owners) {
    const auto party = static_cast<std::size_t>(owner.party);
    if (party >= parties || ranges[party].first >= 0) {
      refuse(concat("own_rows: a party has number ", owner.party, " of ", parties, "; expected each from 0 on, once"));
    }
    ranges[party] = owner.rows;
  }
  check_rows(ranges, rows);
  return ranges;
}

std::int64_t Parties::least(std::int64_t own) const {
  if (!several()) return own;
  ByteWriter bytes;
  bytes.put(own);
  std::int64_t least = own;
  exchange(std::move(bytes), [&](ByteReader& from) {
    std::int64_t other = 0;
    if (!from.get(other)) return false;
    least = std::min(least, other);
    return true;
  });
  return least;
}

}  // namespace isologit::detail::base
