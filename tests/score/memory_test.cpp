// What a call allocates, counted: never [N, V], never a copy of the weight. An executable of its own, as it replaces
// the global operator new.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "score/support.hpp"

namespace {

std::atomic<std::int64_t> held = 0;
std::atomic<std::int64_t> peak = 0;

// Each block begins with its size, in `room` bytes that keep the alignment.
void* take(std::size_t bytes, std::size_t room) {
  void* start = std::aligned_alloc(room, (bytes + 2 * room - 1) / room * room);
  if (start == nullptr) throw std::bad_alloc();
  *static_cast<std::size_t*>(start) = bytes;
  const std::int64_t now = held += static_cast<std::int64_t>(bytes);
  std::int64_t known = peak;
  while (now > known && !peak.compare_exchange_weak(known, now)) {
  }
  return static_cast<char*>(start) + room;
}

void give_back(void* block, std::size_t room) {
  if (block == nullptr) return;
  void* start = static_cast<char*>(block) - room;
  held -= static_cast<std::int64_t>(*static_cast<std::size_t*>(start));
  std::free(start);
}

constexpr std::size_t usual_room = 16;
std::size_t room_for(std::align_val_t alignment) { return std::max(usual_room, static_cast<std::size_t>(alignment)); }

}  // namespace

void* operator new(std::size_t bytes) { return take(bytes, usual_room); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return take(bytes, room_for(alignment)); }
void operator delete(void* block) noexcept { give_back(block, usual_room); }
void operator delete(void* block, std::size_t) noexcept { give_back(block, usual_room); }
void operator delete(void* block, std::align_val_t alignment) noexcept { give_back(block, room_for(alignment)); }
void operator delete(void* block, std::size_t, std::align_val_t alignment) noexcept {
  give_back(block, room_for(alignment));
}

namespace isologit::testing_score {
namespace {

constexpr std::int64_t megabyte = 1 << 20;

// The most that a call holds beyond what was there before.
template <class Call>
std::int64_t peak_of(Call call) {
  const std::int64_t before = held;
  peak = before;
  call();
  return peak - before;
}

class Memory : public KernelTest {};

TEST_P(Memory, NeverRowsTimesVocabulary) {
  if (is_reference()) GTEST_SKIP() << "too slow for a size that would show";
  const std::int64_t rows = instrumented ? 500 : 2000;
  const std::int64_t vocab = 10000;
  std::vector<float> weight(static_cast<std::size_t>(vocab));
  for (std::size_t v = 0; v < weight.size(); ++v) weight[v] = static_cast<float>(v % 97) / 8;
  Head head;
  head.weight = matrix(weight, vocab, 1);
  head.vocab_size = vocab;
  const std::vector<float> hidden(static_cast<std::size_t>(rows), 1.0F);
  std::vector<float> logprobs(hidden.size());
  std::vector<std::int64_t> ids(hidden.size(), 7);
  ScoreRequest request;
  request.hidden = matrix(hidden, rows, 1);
  request.token_ids = ids;
  request.logprobs = logprobs.data();
  const std::int64_t used = peak_of([&] { ASSERT_TRUE(score(head, request, options(2))); });
  const std::int64_t logits = rows * vocab * 4;
  EXPECT_GT(used, 0);
  // Rows of one element are the dearest: a prepared one has lists and sums of some 2 KB, whatever its length.
  EXPECT_LT(used, 8 * megabyte) << "all logits are " << logits;
}

TEST_P(Memory, NeverACopyOfTheWeight) {
  const std::int64_t vocab = is_reference() || instrumented ? 1000 : 8000;
  const std::int64_t cols = is_reference() || instrumented ? 512 : 4096;
  const std::vector<std::uint16_t> weight(static_cast<std::size_t>(vocab * cols), 0x3F80);  // 1
  const std::vector<std::uint16_t> hidden(static_cast<std::size_t>(cols), 0x3A80);
  Head head;
  head.weight = {weight.data(), DType::bf16, vocab, cols, cols};
  head.vocab_size = vocab;
  float lse = 0;
  ScoreRequest request;
  request.hidden = {hidden.data(), DType::bf16, 1, cols, cols};
  request.lse = &lse;
  const std::int64_t used = peak_of([&] { ASSERT_TRUE(score(head, request, options(2))); });
  EXPECT_LT(used, megabyte);  // the weight is as large or far larger
  EXPECT_GT(lse, 0.0F);
}

ISOLOGIT_FOR_EACH_KERNEL(Memory);

}  // namespace
}  // namespace isologit::testing_score
