// What a bench runs on: the shapes of well-known heads, and random normal data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/outcome.hpp"
#include "isologit/head.hpp"

namespace isologit::detail::cli {

struct BenchShape {
  std::string name;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  float softcap = 0;  // 0: none
};

// "qwen3-8b", "151936 x 4096, softcap 30"
std::string shape_names();

// One of the named shapes, or "V,H".
Outcome<BenchShape> parse_shape(std::string_view text);

// `count` bf16 numbers of a normal distribution with that deviation: element i is a function of i and the stream alone,
// whatever the threads.
std::vector<std::uint16_t> normal_bf16(std::int64_t count, float deviation, std::uint64_t stream, int threads);

// Multiplies 8 of every 4096 channels of rows of `cols` by `factor`, the outlier channels of real hidden states.
void scale_outliers(std::vector<std::uint16_t>& rows, std::int64_t cols, float factor);

}  // namespace isologit::detail::cli
