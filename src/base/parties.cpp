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
  std::vector<Message> messages;
  for (const std::vector<std::byte>& one : all) {
    Message from{{}, ByteReader(one)};
    if (!from.header.read(from.bytes)) {
      refuse("a party sent what is no state; expected all parties to make the same call, with one version of isologit");
    }
    if (from.header.exchange != header.exchange) {
      refuse(concat("the party of ids ", range_of(from.header), " is at exchange ", from.header.exchange,
                    " of its call, and this one at ", header.exchange, "; expected the same call of all parties"));
    }
    messages.push_back(from);
  }
  std::sort(messages.begin(), messages.end(), [](const Message& a, const Message& b) {
    return a.header.first_id != b.header.first_id ? a.header.first_id < b.header.first_id
                                                  : a.header.rows < b.header.rows;
  });
  check_vocabulary(messages, header.vocab_size);
  for (Message& from : messages) {
    if (read(from.bytes) && from.bytes.left() == 0) continue;
    refuse(concat("what the party of ids ", range_of(from.header),
                  " sent is no state of this call; expected all parties to make it with the same request"));
  }
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
