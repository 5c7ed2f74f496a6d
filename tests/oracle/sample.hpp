// CONTRACT.md 4: the generator, the cuts and the sample.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace isologit::oracle {

// Philox4x32 with ten rounds (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3; SC 2011).
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

struct DrawKey {
  std::uint64_t seed = 0;
  std::uint64_t sequence = 0;
  std::uint32_t position = 0;
};

// The words r1 and r2 of token v.
struct Words {
  std::uint32_t r1;
  std::uint32_t r2;
  bool operator==(const Words&) const = default;
};
Words words_of(const DrawKey& key, std::uint32_t v);

// No cut: min_p 0, top_k 0, top_p 1.
struct Cuts {
  float min_p = 0;
  std::int64_t top_k = 0;
  float top_p = 1;
};

// The mask of what min-p, top-k and top-p leave of S, for an ordinary row (one with a finite greatest logit).
std::vector<std::uint8_t> cut_support(std::span<const float> z, std::span<const std::uint8_t> mask, const Cuts& cuts);

struct Sample {
  std::int64_t id;
  float logprob;       // over S
  float logprob_cut;   // over what the cuts left
  float log_kept_cut;  // ln of its share of S
};

// One draw from the row's last logits. Rows that are not ordinary follow section 3: the id is argmax, floats NaN.
Sample sample(std::span<const float> z, std::span<const std::uint8_t> mask, const Cuts& cuts, const DrawKey& key);

// T = 0, from the logits at T = 1.
Sample sample_greedy(std::span<const float> z, std::span<const std::uint8_t> mask);

}  // namespace isologit::oracle
