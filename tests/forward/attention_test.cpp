// Attention against the oracle; pages, windows, chunks and neighbours.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "forward/attention_batch.hpp"

namespace isologit::test {
namespace {

using oracle::Random;

struct Operands {
  Tensor q, k, v;
};

Operands random_operands(const AttentionBatch& p, Family family, std::uint64_t seed) {
  Random random(seed);
  return {Tensor::random(random, family, p.dtype, count_of(p.queries), p.heads, p.dim, 1),
          Tensor::random(random, family, p.dtype, count_of(p.keys), p.kv_heads, p.dim),
          Tensor::random(random, family, p.dtype, count_of(p.keys), p.kv_heads, p.value_dim, 2)};
}

Tensor attend(const AttentionBatch& p, const Operands& operands, const forward::Options& options) {
  Tensor y(p.dtype, count_of(p.queries), p.heads, p.value_dim, 3);
  const auto query_starts = starts_of(p.queries);
  auto first_keys = starts_of(p.keys);
  first_keys.pop_back();
  const auto request =
      request_of(p, operands.q.view(), operands.k.view(), operands.v.view(), query_starts, first_keys, y.output());
  const auto report = forward::attention(request, options);
  EXPECT_TRUE(report) << report.error().message;
  EXPECT_TRUE(y.gaps_untouched());
  return y;
}

void check(const AttentionBatch& p, const Operands& operands, const std::string& what) {
  const std::vector<std::string> kernels = exact_kernels();
  const Tensor first = attend(p, operands, options_of(2, kernels.front()));
  for (std::size_t s = 0; s < p.queries.size(); ++s) {
    for (std::int64_t i = 0; i < p.queries[s]; ++i) {
      for (std::int64_t h = 0; h < p.heads; ++h) {
        for (std::int64_t d = 0; d < p.value_dim; ++d) {
          ASSERT_TRUE(same(first.at(starts_of(p.queries)[s] + i, h, d), right(p, operands, s, i, h, d)))
              << what << ' ' << dtype_name(p.dtype) << " sequence " << s << " query " << i << " head " << h
              << " element " << d;
        }
      }
    }
  }
  for (const std::string& kernel : kernels)
    ASSERT_TRUE(attend(p, operands, options_of(1, kernel)) == first) << kernel << ' ' << what;
}

TEST(Attention, EveryFamilyAndType) {
  std::uint64_t seed = 1;
  for (const Family family : families) {
    for (const DType dtype : dtypes) {
      AttentionBatch p;
      p.dtype = dtype;
      p.queries = {3, 1};
      p.keys = {3, 9};
      check(p, random_operands(p, family, seed++), name_of(family));
      p.softcap = 2;
      p.window = 3;
      p.sinks = {0.5F, -3, 20, -std::numeric_limits<float>::infinity()};
      check(p, random_operands(p, family, seed++), name_of(family));
    }
  }
}

TEST(Attention, LongerThanABlock) {
  AttentionBatch p;
  p.queries = {2};
  p.keys = {150};
  p.value_dim = 3;
  check(p, random_operands(p, Family::normal, 1), "long");
  p.causal = false;
  check(p, random_operands(p, Family::outliers, 2), "not causal");
}

// Many rows over several blocks, of which each sees another part; and of NaN in a key or value only those that see it.
TEST(Attention, RowsThatSeePartsOfABlock) {
  AttentionBatch p;
  p.queries = {41};
  p.keys = {75};
  p.dim = 7;
  p.value_dim = 3;
  for (const std::int64_t window : {0, 1, 5, 40}) {
    p.window = window;
    Operands o = random_operands(p, Family::normal, 3);
    check(p, o, "parts");
    o.k.set(50, 0, 2, std::nan(""));
    o.v.set(66, 1, 1, std::numeric_limits<double>::infinity());
    check(p, o, "parts, NaN");
  }
}

TEST(Attention, AHundredThousandKeys) {
  AttentionBatch p;
  p.heads = p.kv_heads = 1;
  p.queries = {1};
  p.keys = {100000};
  p.dim = 5;
  p.value_dim = 2;
  check(p, random_operands(p, Family::normal, 4), "100,000 keys");
}

// Keys that are equal in pairs, and values whose mean is a boundary: exact ties; and one more key that is far below
// tells the side.
TEST(Attention, ExactTiesGoToEven) {
  for (const DType dtype : dtypes) {
    for (const int far : {0, 1, -1}) {
      AttentionBatch p;
      p.dtype = dtype;
      p.heads = p.kv_heads = 1;
      p.value_dim = 16;
      p.queries = {1};
      p.keys = {far == 0 ? 2 : 3};
      p.scale = 1;
      Operands o{Tensor(dtype, 1, 1, p.dim), Tensor(dtype, p.keys[0], 1, p.dim), Tensor(dtype, p.keys[0], 1, 16)};
      const int bits = dtype == DType::bf16 ? 8 : dtype == DType::f16 ? 11 : 24;
      for (std::int64_t d = 0; d < p.dim; ++d) o.q.set(0, 0, d, 8);
      for (std::int64_t j = 0; j < p.keys[0]; ++j) {
        for (std::int64_t d = 0; d < p.dim; ++d) o.k.set(j, 0, d, j == 2 ? -30 : 1);
        for (std::int64_t d = 0; d < 16; ++d) {
          const double one = 1 + static_cast<double>(d) * std::ldexp(1, 1 - bits);
          o.v.set(j, 0, d, j == 0 ? one : j == 1 ? one + std::ldexp(1, 1 - bits) : one + far);
        }
      }
      check(p, o, "tie");
    }
  }
}

TEST(Attention, HugeScores) {
  for (const float softcap : {0.0F, 30.0F}) {
    AttentionBatch p;
    p.queries = {2};
    p.keys = {6};
    p.softcap = softcap;
    p.scale = 1e6F;
    check(p, random_operands(p, Family::few_values, 5), "huge");
    check(p, random_operands(p, Family::outliers, 6), "huge");
    p.sinks = {1e30F, -1e30F, 0, std::numeric_limits<float>::infinity()};
    check(p, random_operands(p, Family::few_values, 7), "huge sinks");
  }
}

// Pages in any order and of any size, with NaN in what belongs to others; chunks; neighbours: the same bits.
TEST(Attention, PagesChunksAndNeighboursDoNotShow) {
  AttentionBatch p;
  p.queries = {70, 5, 1};
  p.keys = {70, 40, 130};
  const Operands o = random_operands(p, Family::normal, 9);
  const Tensor whole = attend(p, o, {});
  for (const std::int64_t block_size : {1, 16, 48}) {
    Random random(10);
    const std::int64_t per_sequence = (130 + block_size - 1) / block_size + 1;
    const std::int64_t blocks = 3 * per_sequence + 2;
    const std::vector<std::int32_t> order = random_pages(random, 3 * per_sequence, blocks);
    Tensor k(p.dtype, blocks * block_size, p.kv_heads, p.dim), v(p.dtype, blocks * block_size, p.kv_heads, p.value_dim);
    for (std::int64_t t = 0; t < blocks * block_size; ++t) {
      for (std::int64_t h = 0; h < p.kv_heads; ++h) {
        for (std::int64_t d = 0; d < p.dim; ++d) k.set(t, h, d, std::nan(""));
        for (std::int64_t d = 0; d < p.value_dim; ++d) v.set(t, h, d, std::nan(""));
      }
    }
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
    forward::AttentionRequest request;
    request.q = o.q.view();
    request.kv.keys = k.view();
    request.kv.values = v.view();
    request.kv.block_table = order;
    request.kv.blocks_per_sequence = per_sequence;
    request.kv.block_size = block_size;
    request.kv.key_block_stride = block_size * k.view().token_stride;
    request.kv.value_block_stride = block_size * v.view().token_stride;
    const auto query_starts = starts_of(p.queries);
    request.query_starts = query_starts;
    request.key_counts = p.keys;
    request.scale = p.scale;
    Tensor y(p.dtype, 76, p.heads, p.value_dim, 3);
    request.y = y.output();
    const auto report = forward::attention(request);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(y == whole) << block_size;
  }
  // The first sequence in two chunks, alone.
  AttentionBatch chunk = p;
  for (const std::int64_t split : {1, 33, 69}) {
    for (const bool second : {false, true}) {
      chunk.queries = {second ? 70 - split : split};
      chunk.keys = {second ? 70 : split};
      Operands part{Tensor(p.dtype, chunk.queries[0], p.heads, p.dim),
                    Tensor(p.dtype, chunk.keys[0], p.kv_heads, p.dim),
                    Tensor(p.dtype, chunk.keys[0], p.kv_heads, p.value_dim)};
      const std::int64_t from = second ? split : 0;
      for (std::int64_t t = 0; t < chunk.queries[0]; ++t) {
        for (std::int64_t h = 0; h < p.heads; ++h) {
          for (std::int64_t d = 0; d < p.dim; ++d) part.q.set(t, h, d, o.q.at(from + t, h, d));
        }
      }
      for (std::int64_t j = 0; j < chunk.keys[0]; ++j) {
        for (std::int64_t h = 0; h < p.kv_heads; ++h) {
          for (std::int64_t d = 0; d < p.dim; ++d) part.k.set(j, h, d, o.k.at(j, h, d));
          for (std::int64_t d = 0; d < p.value_dim; ++d) part.v.set(j, h, d, o.v.at(j, h, d));
        }
      }
      const Tensor y = attend(chunk, part, {});
      for (std::int64_t t = 0; t < chunk.queries[0]; ++t) {
        for (std::int64_t h = 0; h < p.heads; ++h) {
          for (std::int64_t d = 0; d < p.value_dim; ++d) ASSERT_TRUE(same(y.at(t, h, d), whole.at(from + t, h, d)));
        }
      }
    }
  }
}

// More queries than keys: the first ones see nothing.
TEST(Attention, SeesNothing) {
  AttentionBatch p;
  p.queries = {3};
  p.keys = {1};
  const Operands o = random_operands(p, Family::normal, 11);
  const Tensor y = attend(p, o, {});
  for (std::int64_t d = 0; d < p.value_dim; ++d) {
    EXPECT_TRUE(same(y.at(0, 0, d), 0));
    EXPECT_TRUE(same(y.at(1, 0, d), 0));
    EXPECT_TRUE(same(y.at(2, 0, d), o.v.at(0, 0, d)));
  }
}

}  // namespace
}  // namespace isologit::test
