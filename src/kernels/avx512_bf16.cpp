// The first pass for bf16 results by VDPBF16PS (kernels/bf16_pass_impl.hpp), where the processor has no AMX.
//
// Roundings. The instruction adds the products of a pair to each of sixteen sums, one after the other (Intel SDM): two
// roundings, of a first pair one. A step is two chains of eight pairs from 0, each added to the sum of the chunk. So
// the product of pair q of a chain passes through 16 - 2 q of the chain, one less in the first, and one for each chain
// from its own to the chunk's end: two a step, but that the second chain does not pass through the first one's.
//
// Registers: sums of chains and of chunks for four weight rows and three groups of hidden rows, 24 of 32. A pair of the
// step takes seven loads for twelve products.
//
// Measured (256 rows, a weight of 3072 x 1024, a thread of a Xeon that shared its core with other work, in ms): 21,
// where f64 takes 32 and stock bf16 of torch, by the same instruction, 16; 16 rows 1.8, by f64 2.6, torch 1.4.
// Predicted: products half of f64's, an instruction taking two multiply-adds' time there, and 4 for rounding and what
// is open, 20. One row is bound by memory, and left to f64.
#include "kernels/bf16_pass_impl.hpp"
#include "kernels/registry.hpp"

namespace isologit::detail::kernels {
namespace {

struct LaneProducts {
  using Results = Bf16Results<LaneProducts>;

  static constexpr std::int64_t kChain = 8;     // pairs
  static constexpr std::int64_t kStepSums = 2;  // chains
  static constexpr std::int64_t kChunkSteps = 4;

  static constexpr std::int64_t pair_roundings(std::int64_t pair) {
    const std::int64_t place = pair % kChain;
    return 2 * (kChain - place) - (place == 0 ? 1 : 0) - pair / kChain;
  }

  static void multiply(const char* hidden, std::int64_t groups, const char* weight, std::int64_t steps, float* sums) {
    const std::int64_t group_bytes = steps * Results::kStepBytes;
    for (std::int64_t first = 0; first < steps; first += kChunkSteps) {
      const std::int64_t count = std::min(kChunkSteps, steps - first);
      const char* h = hidden + first * Results::kStepBytes;
      const char* w = weight + first * Results::kStepBytes;
      std::int64_t g = 0;
      for (; g + 3 <= groups; g += 3) {
        chunk<4, 3>(h + g * group_bytes, w, group_bytes, count, first == 0, sums + g * kGroupSums);
      }
      if (groups - g == 2) chunk<4, 2>(h + g * group_bytes, w, group_bytes, count, first == 0, sums + g * kGroupSums);
      if (groups - g == 1) chunk<8, 1>(h + g * group_bytes, w, group_bytes, count, first == 0, sums + g * kGroupSums);
    }
  }

 private:
  static constexpr std::int64_t kGroupSums = kBf16Tile * kBf16Group;

  // The whole tile of the weight, kW rows at a time, and kG groups of hidden rows.
  template <std::size_t kW, std::size_t kG>
  static void chunk(const char* hidden, const char* weight, std::int64_t group_bytes, std::int64_t steps, bool first,
                    float* sums) {
    for (std::int64_t j = 0; j < kBf16Tile; j += static_cast<std::int64_t>(kW)) {
      const char* rows = weight + j / 16 * group_bytes + j % 16 * 64;
      __m512 total[kG][kW];
      for (auto& group : total) {
        for (__m512& sum : group) sum = _mm512_setzero_ps();
      }
      for (std::int64_t s = 0; s < kStepSums * steps; ++s) {
        const std::int64_t step = s / kStepSums * Results::kStepBytes;
        const std::int64_t pair = s % kStepSums * kChain;
        chain(hidden + step + pair * 64, rows + step + pair * 4, group_bytes, total);
      }
      for (std::size_t g = 0; g < kG; ++g) {
        for (std::size_t i = 0; i < kW; ++i) {
          float* to = sums + static_cast<std::int64_t>(g) * kGroupSums + (j + static_cast<std::int64_t>(i)) * 16;
          _mm512_storeu_ps(to, first ? total[g][i] : _mm512_add_ps(_mm512_loadu_ps(to), total[g][i]));
        }
      }
    }
  }

  // Adds the products of kChain pairs.
  template <std::size_t kW, std::size_t kG>
  static void chain(const char* hidden, const char* weight, std::int64_t group_bytes, __m512 (&total)[kG][kW]) {
    __m512 sum[kG][kW];
    for (auto& group : sum) {
      for (__m512& of : group) of = _mm512_setzero_ps();
    }
#pragma GCC unroll 8
    for (std::int64_t pair = 0; pair < kChain; ++pair) {
      __m512i h[kG];
      for (std::size_t g = 0; g < kG; ++g) {
        h[g] = _mm512_loadu_si512(hidden + static_cast<std::int64_t>(g) * group_bytes + pair * 64);
      }
      for (std::size_t i = 0; i < kW; ++i) {
        std::int32_t word;
        std::memcpy(&word, weight + i * 64 + static_cast<std::size_t>(pair) * 4, sizeof word);
        const __m512i w = _mm512_set1_epi32(word);
        for (std::size_t g = 0; g < kG; ++g) sum[g][i] = multiply_add_pairs(sum[g][i], h[g], w);
      }
    }
    for (std::size_t g = 0; g < kG; ++g) {
      for (std::size_t i = 0; i < kW; ++i) total[g][i] = _mm512_add_ps(total[g][i], sum[g][i]);
    }
  }
};

constexpr Bf16Pass kLanePass = LaneProducts::Results::pass(2);

}  // namespace

const Bf16Pass& avx512_bf16_pass() { return kLanePass; }

}  // namespace isologit::detail::kernels
