// Parties of one process, a thread each, that exchange bytes.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "isologit/head.hpp"
#include "isologit/peers.hpp"

namespace isologit::test {

class Meeting {
 public:
  explicit Meeting(std::size_t parties) : own_(parties), shared_(parties) {}

  // What party p hands to a call. Each party gets the bytes in an order of its own.
  Peers peers(std::size_t party, std::int64_t first_id, std::int64_t vocab_size) {
    return {first_id, vocab_size,
            [this, party](std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all) {
              return gather(party, own, all);
            }};
  }

  // Party p has rows [first, last) of hidden; its number is another, so that none relies on an order of ids.
  OwnRows own_rows(std::size_t party, std::int64_t first, std::int64_t last) {
    return {number_of(party), first, last,
            [this, party](std::span<const std::vector<std::byte>> own, std::vector<std::vector<std::byte>>& all) {
              const std::vector<std::vector<std::byte>> handed(own.begin(), own.end());
              std::vector<std::vector<std::vector<std::byte>>> everyone;
              if (!meet(party, handed, everyone)) return false;
              for (const auto& one : everyone) all.push_back(one.at(static_cast<std::size_t>(number_of(party))));
              return true;
            }};
  }

  // Runs work(p) of every party at once. One that returns false is lost: the others' exchanges fail from then on.
  void hold(const std::function<bool(std::size_t)>& work) {
    std::vector<std::thread> threads;
    for (std::size_t p = 0; p < own_.size(); ++p) {
      threads.emplace_back([&, p] {
        if (work(p)) return;
        const std::lock_guard lock(mutex_);
        lost_ = true;
        changed_.notify_all();
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::size_t most_bytes() const { return most_bytes_; }            // that a party handed in at one exchange
  std::size_t scattered_bytes() const { return scattered_bytes_; }  // from any party to another
  std::int64_t exchanges() const { return exchanges_; }

 private:
  using Handed = std::vector<std::vector<std::byte>>;

  std::int64_t number_of(std::size_t party) const { return static_cast<std::int64_t>(own_.size() - 1 - party); }

  bool gather(std::size_t party, std::span<const std::byte> own, std::vector<std::vector<std::byte>>& all) {
    std::vector<Handed> everyone;
    if (!meet(party, {{own.begin(), own.end()}}, everyone)) return false;
    for (const Handed& one : everyone) all.push_back(one.at(0));
    std::rotate(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(party), all.end());
    if (party % 2 == 1) std::reverse(all.begin(), all.end());
    return true;
  }

  // What all parties hand in, once they have.
  bool meet(std::size_t party, const Handed& own, std::vector<Handed>& all) {
    std::unique_lock lock(mutex_);
    own_[party] = own;
    if (own.size() == 1) most_bytes_ = std::max(most_bytes_, own[0].size());
    for (std::size_t to = 0; own.size() > 1 && to < own.size(); ++to) {
      if (static_cast<std::int64_t>(to) != number_of(party)) scattered_bytes_ += own[to].size();
    }
    const std::int64_t exchange = exchanges_;
    if (++arrived_ == own_.size()) {
      arrived_ = 0;
      shared_ = own_;
      ++exchanges_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return lost_ || exchanges_ != exchange; });
    }
    if (exchanges_ == exchange) return false;
    all = shared_;
    return true;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Handed> own_, shared_;
  std::size_t arrived_ = 0;
  std::size_t most_bytes_ = 0;
  std::size_t scattered_bytes_ = 0;
  std::int64_t exchanges_ = 0;
  bool lost_ = false;
};

// Ids [bounds[p], bounds[p + 1]) are party p's. Some splits of a vocabulary; uneven ones, and parties without ids.
inline std::vector<std::vector<std::int64_t>> splits_of(std::int64_t vocab) {
  return {{0, vocab},
          {0, vocab / 2, vocab},
          {0, 1, vocab - 1, vocab},
          {0, 0, vocab / 3, vocab / 3, vocab},
          {0, vocab / 7, vocab / 4, vocab / 3, vocab / 2, vocab * 2 / 3, vocab - 1, vocab}};
}

// A party's part of a head, whose bias, if any, is f32.
inline Head part_of(const Head& head, std::int64_t first, std::int64_t last) {
  Head part = head;
  const auto row_bytes = head.weight.row_stride * static_cast<std::int64_t>(dtype_size(head.weight.dtype));
  part.weight.data = static_cast<const char*>(head.weight.data) + first * row_bytes;
  part.weight.rows = part.vocab_size = last - first;
  if (head.bias.data != nullptr) {
    part.bias.data =
        static_cast<const char*>(head.bias.data) + first * static_cast<std::int64_t>(dtype_size(head.bias.dtype));
    part.bias.size = last - first;
  }
  return part;
}

// A head of given logits, ids [first, last) of the rows z, which are all alike; and these as its hidden states.
inline Head given_part_of(const Head& head, std::int64_t first, std::int64_t last) {
  Head part;
  part.vocab_size = last - first;
  part.transforms = head.transforms;
  return part;
}
inline MatrixView given_rows_of(const std::vector<float>& z, std::int64_t first, std::int64_t last, std::int64_t rows) {
  const float* own = z.data() + (first < last ? first : 0);
  return {own, DType::f32, rows, std::max<std::int64_t>(last - first, 1), 0};
}

}  // namespace isologit::test
