// The operators of the forward pass (CONTRACT.md 10) in rational arithmetic and MPFR, one element at a time. Operands
// are doubles that hold elements exactly; results are those of `format`.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "oracle/round.hpp"

namespace isologit::oracle {

// Element i of the norm of a row. w and b of 1 and 0 where there are none.
double rms_norm(std::span<const double> x, std::size_t i, double w, double epsilon, bool one_plus_weight,
                Format format);
double layer_norm(std::span<const double> x, std::size_t i, double w, double b, double epsilon, Format format);

double residual(double x, double multiplier, double a, double b, Format format);

enum class GateShape { silu, gelu_tanh, relu_squared, clamped_swish };
struct GateParameters {
  double alpha = static_cast<double>(1.702F);
  double limit = 7;
};
double gate(GateShape shape, const GateParameters& parameters, double g, std::optional<double> up, Format format);

// factor (x cos a + y sin a), a = position * frequency.
double turned(double factor, double x, double y, std::int64_t position, double frequency, Format format);

struct Llama3 {
  double factor, low, high;
  std::int64_t context;
};
float rotary_frequency(double theta, std::int64_t j, std::int64_t dim, double divisor, const Llama3* llama3);

// One output of attention: q, keys and the values' element d, of the keys that are seen.
struct AttentionProblem {
  std::vector<double> q;
  std::vector<std::vector<double>> keys;
  std::vector<double> values;
  double scale = 1;
  double softcap = 0;
  std::optional<double> sink;
};
double attention(const AttentionProblem& problem, Format format);

}  // namespace isologit::oracle
