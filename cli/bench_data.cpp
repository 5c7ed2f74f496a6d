#include "cli/bench_data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>

#include "base/thread_pool.hpp"

namespace isologit::detail::cli {
namespace {

const std::array<BenchShape, 6>& shapes() {
  static const std::array<BenchShape, 6> list = {{{"qwen3-0.6b", 151936, 1024},
                                                  {"qwen3-8b", 151936, 4096},
                                                  {"llama3-8b", 128256, 4096},
                                                  {"gemma3-4b", 262144, 2560, 30},
                                                  {"deepseek-v3", 129280, 7168},
                                                  {"gpt-oss", 201088, 2880}}};
  return list;
}

bool read_size(std::string_view text, std::int64_t& size) {
  const auto end = std::from_chars(text.data(), text.data() + text.size(), size);
  return end.ec == std::errc() && end.ptr == text.data() + text.size() && size >= 1 && size <= (std::int64_t{1} << 31);
}

std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// The quantile at p of the normal distribution, by bisection of its distribution function.
double quantile(double p) {
  double low = -9;
  double high = 9;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// A 64-bit mix of a counter (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
std::uint64_t mix(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

}  // namespace

std::string shape_names() {
  std::string names;
  for (const BenchShape& shape : shapes()) names += fmt::format("{}{}", names.empty() ? "" : ", ", shape.name);
  return names;
}

Outcome<BenchShape> parse_shape(std::string_view text) {
  for (const BenchShape& shape : shapes()) {
    if (shape.name == text) return shape;
  }
  const std::size_t comma = text.find(',');
  BenchShape shape{std::string(text)};
  if (comma != std::string_view::npos && read_size(text.substr(0, comma), shape.vocab_size) &&
      read_size(text.substr(comma + 1), shape.hidden_size)) {
    return shape;
  }
  return usage_error(
      fmt::format("--shape: '{}'; expected V,H, such as 151936,4096, or one of {}", text, shape_names()));
}

std::vector<std::uint16_t> normal_bf16(std::int64_t count, float deviation, std::uint64_t stream, int threads) {
  // Each 16 bits of random numbers choose one of 2^16 quantiles.
  constexpr std::size_t kQuantiles = 1 << 16;
  std::vector<std::uint16_t> table(kQuantiles);
  for (std::size_t i = 0; i < kQuantiles; ++i) {
    const double p = (static_cast<double>(i) + 0.5) / kQuantiles;
    table[i] = to_bf16(deviation * static_cast<float>(quantile(p)));
  }
  std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
  const auto groups = (values.size() + 3) / 4;
  base::parallel(threads, [&](int thread) {
    const std::size_t begin = groups * static_cast<std::size_t>(thread) / static_cast<std::size_t>(threads);
    const std::size_t end = groups * (static_cast<std::size_t>(thread) + 1) / static_cast<std::size_t>(threads);
    for (std::size_t group = begin; group < end; ++group) {
      std::uint64_t random = mix((stream << 40) + group + 1);
      const std::size_t last = std::min(4 * group + 4, values.size());
      for (std::size_t i = 4 * group; i < last; ++i, random >>= 16) values[i] = table[random & (kQuantiles - 1)];
    }
  });
  return values;
}

void scale_outliers(std::vector<std::uint16_t>& rows, std::int64_t cols, float factor) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i % static_cast<std::size_t>(cols) % 512 != 77) continue;
    rows[i] = to_bf16(factor * std::bit_cast<float>(static_cast<std::uint32_t>(rows[i]) << 16));
  }
}

}  // namespace isologit::detail::cli
