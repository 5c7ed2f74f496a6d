// CONTRACT.md 5, `exact`: dz as one real expression rounded once, and the sums that follow from it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "isologit/head.hpp"
#include "oracle/encoded.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {

// The upstream gradients of one row: a_j of logprob(t_j), b of lse, c of entropy, d of the mean logit. All finite; ids
// in the vocabulary.
struct RowUpstream {
  std::vector<std::int64_t> ids;
  std::vector<float> a;
  float b = 0;
  float c = 0;
  float d = 0;
  bool all_zero() const;
};

// dz of one row with respect to the logits z0 of section 1. The head's transforms and the temperature t lead from z0
// to the last logits. An empty mask means the whole vocabulary.
std::vector<float> dz_of_row(std::span<const float> z0, std::span<const std::uint8_t> mask, const RowUpstream& upstream,
                             const Transforms& transforms, float t);

// The same for a finite upstream g of the last logits themselves: g_v times the factors of the transforms.
std::vector<float> dz_of_logits(std::span<const float> z0, std::span<const float> g, const Transforms& transforms,
                                float t);

// What follows from dz [N, V]. A row listed as skipped (its upstream is all 0) contributes exactly 0.
// buffer_*: what the results are added to before the one rounding, in the buffer's type; empty for none (f32).
struct GradientSums {
  std::span<const float> dz;
  std::size_t rows = 0;
  std::size_t vocab = 0;
  std::vector<std::uint8_t> skipped;  // one byte for each row, or empty
};
struct Buffer {
  std::vector<double> values;
  DType dtype = DType::f32;
};
// RN(buffer + Σ_v dz·w), [N, H], of w [V, H].
std::vector<float> dhidden(const GradientSums& sums, std::span<const double> weight, std::size_t cols,
                           const Buffer& buffer = {});
// The same of a weight of any numbers.
std::vector<float> dhidden(const GradientSums& sums, const std::vector<Number>& weight, std::size_t cols,
                           const Buffer& buffer = {});
// RN(buffer + Σ_n dz·h), [V, H], of h [N, H].
std::vector<float> dweight(const GradientSums& sums, std::span<const double> hidden, std::size_t cols,
                           const Buffer& buffer = {});
// RN(buffer + Σ_n dz), [V].
std::vector<float> dbias(const GradientSums& sums, const Buffer& buffer = {});

// With a low-rank addition scale·b·a, a [rank, H], b [V, rank] (buffers as above): dhidden has it too.
struct LowRankOperands {
  std::span<const double> hidden, weight, a, b;
  std::size_t rank = 0;
  std::size_t cols = 0;
  double scale = 1;
};
struct LowRankGradients {
  std::vector<float> dhidden, da, db;
};
LowRankGradients low_rank_gradients(const GradientSums& sums, const LowRankOperands& operands,
                                    const Buffer& dhidden = {}, const Buffer& da = {}, const Buffer& db = {});

// RN32(-Σ logprobs / n) over the rows not ignored, and the upstream RN32(-g / n) of each of their logprobs.
float mean_loss(std::span<const float> logprobs);
float mean_loss_upstream(float g, std::int64_t n);

}  // namespace isologit::oracle
