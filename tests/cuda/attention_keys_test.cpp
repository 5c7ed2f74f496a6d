// Which keys attention sees by the CUDA kernels, compiled for the host, and where they lie.
#include <limits>
#include <numeric>

#include "attention.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::Random;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(CudaAttention, SeesNothing) {
  for (const int splits : {1, 2}) {
    Problem p;
    p.queries = {3, 2};
    p.keys = {1, 0};
    p.splits = splits;
    const Operands o = random_operands(p, Family::normal, 11);
    EXPECT_EQ(check(p, o, "nothing"), 0U);
    p.sinks = {0, -kInfinity, kInfinity, std::nanf("")};
    EXPECT_EQ(check(p, o, "nothing but a sink"), 0U);
  }
}

// Pages of any size in any order, of which others' slots hold NaN; the same bits by every way of cutting the keys.
TEST(CudaAttention, PagesSplitsAndNeighboursDoNotShow) {
  Problem p;
  p.queries = {70, 5, 1};
  p.keys = {70, 40, 130};
  p.dim = p.value_dim = 24;
  const Operands o = random_operands(p, Family::normal, 9);
  p.splits = 1;
  const Attended whole = attend(p, o);
  EXPECT_EQ(whole.status.open, 0U);
  for (const int splits : {2, 3, 7}) {
    p.splits = splits;
    EXPECT_TRUE(attend(p, o).y == whole.y) << splits;
  }
  for (const std::int64_t block_size : {1, 16, 48}) {
    Random random(10);
    const std::int64_t per_sequence = (130 + block_size - 1) / block_size + 1;
    const std::int64_t blocks = 3 * per_sequence + 2;
    std::vector<std::int32_t> order = test::random_pages(random, 3 * per_sequence, blocks);
    Laid k(p.dtype, blocks * block_size, p.kv_heads, p.dim, 0, true);
    Laid v(p.dtype, blocks * block_size, p.kv_heads, p.value_dim, 8, true);
    for (std::int64_t s = 0; s < 3; ++s) {
      for (std::int64_t j = 0; j < p.keys[static_cast<std::size_t>(s)]; ++j) {
        const std::int64_t slot =
            order[static_cast<std::size_t>(s * per_sequence + j / block_size)] * block_size + j % block_size;
        const std::int64_t from = starts_of(p.keys)[static_cast<std::size_t>(s)] + j;
        for (std::int64_t h = 0; h < p.kv_heads; ++h) {
          for (std::int64_t d = 0; d < p.dim; ++d) k.set(slot, h, d, o.k.at(from, h, d));
          for (std::int64_t d = 0; d < p.value_dim; ++d) v.set(slot, h, d, o.v.at(from, h, d));
        }
      }
    }
    for (std::size_t s = 0; s < 3; ++s) {  // past the last page of a sequence is none
      for (std::int64_t b = (p.keys[s] + block_size - 1) / block_size; b < per_sequence; ++b) {
        order[static_cast<std::size_t>(static_cast<std::int64_t>(s) * per_sequence + b)] = -5;
      }
    }
    Lists lists;
    const Laid y(p.dtype, 76, p.heads, p.value_dim, 3);
    auto request = request_of(p, o, lists, y);
    request.keys = k.view();
    request.values = v.view();
    request.first_keys = nullptr;
    request.block_table = order.data();
    request.blocks_per_sequence = per_sequence;
    request.block_size = block_size;
    request.key_block_stride = block_size * k.view().token_stride;
    request.value_block_stride = block_size * v.view().token_stride;
    const Status status = make(request, block_size == 16 ? 2 : 1);
    EXPECT_EQ(status.open + status.wrong, 0U) << block_size;
    EXPECT_TRUE(y == whole.y) << block_size;
    order[0] = static_cast<std::int32_t>(blocks);
    EXPECT_GT(make(request, 1).wrong, 0U);
    order[0] = -1;
    EXPECT_GT(make(request, 1).wrong, 0U);
  }
}

// Lists that are out of range: counted, and nothing past an operand is read (as AddressSanitizer sees).
TEST(CudaAttention, WhatIsOutOfRangeIsCounted) {
  Problem p;
  p.queries = {3, 4};
  p.keys = {3, 6};
  const Operands o = random_operands(p, Family::normal, 12);
  const Laid y(p.dtype, 7, p.heads, p.value_dim, 3);
  const auto wrong = [&](auto change) {
    Lists lists;
    std::vector<std::int64_t> counts = p.keys;
    auto request = request_of(p, o, lists, y);
    request.key_counts = counts.data();
    change(lists, counts);
    return make(request, 1).wrong;
  };
  EXPECT_EQ(wrong([](auto&, auto&) {}), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.query_starts[0] = 1; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.query_starts[1] = 8; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.query_starts[1] = -1; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.query_starts[2] = 6; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.query_starts[2] = 1LL << 40; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.first_keys[1] = 4; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.first_keys[0] = -1; }), 0U);
  EXPECT_GT(wrong([](auto& lists, auto&) { lists.first_keys[1] = 10; }), 0U);
  EXPECT_GT(wrong([](auto&, auto& counts) { counts[0] = -1; }), 0U);
  EXPECT_GT(wrong([](auto&, auto& counts) { counts[1] = 7; }), 0U);
}

}  // namespace
}  // namespace isologit::detail::cuda
