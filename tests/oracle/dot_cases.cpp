#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "oracle/cases.hpp"
#include "oracle/values.hpp"

namespace isologit::oracle {
namespace {

// Compilers differ in which operand or argument they evaluate first, so no expression here draws two random numbers.

float narrow(double x) { return static_cast<float>(x); }
std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// One operand while it is made; elements are rounded to the type when they are set.
struct Operand {
  std::vector<std::uint8_t>& bytes;
  DType dtype;
  std::int64_t cols;
  void set(std::int64_t row, std::int64_t col, double x) {
    encode(dtype, bytes.data(), index(row * cols + col), narrow(x));
  }
};

double smallest_subnormal(DType dtype) {
  return std::ldexp(1.0, dtype == DType::f32 ? -149 : dtype == DType::bf16 ? -133 : -24);
}

double wide_value(Random& random, DType dtype) {
  const std::int64_t exponent = dtype == DType::f16 ? random.between(-24, 14) : random.between(-100, 100);
  const double sign = random.sign();
  return sign * std::ldexp(1.0 + random.uniform(), static_cast<int>(exponent));
}

double special_value(Random& random) {
  constexpr double values[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()};
  return values[random.below(3)];
}

// Families whose elements are independent of one another. channel_size is 1, 40 or 1000.
double element(Random& random, DotFamily family, DType dtype, std::int64_t row, double channel_size) {
  switch (family) {
    case DotFamily::outliers: return random.normal() * channel_size;
    case DotFamily::constant: return 0.7109375;  // 91/128, a bf16 number
    case DotFamily::subnormal: {
      // Every third row normal, so that there are products of every kind.
      if (row % 3 == 2) return random.normal();
      const double unit = random.sign() * smallest_subnormal(dtype);
      return unit * static_cast<double>(random.below(120));
    }
    case DotFamily::wide_exponents: return wide_value(random, dtype);
    case DotFamily::signed_zeros: return random.below(4) == 0 ? random.normal() : random.sign() * 0.0;
    case DotFamily::specials: return random.below(64) == 0 && row % 2 == 1 ? special_value(random) : random.normal();
    case DotFamily::zero_rows: return row % 2 == 0 ? 0.0 : random.normal();
    default: return random.normal();
  }
}

void fill_independent(Random& random, const DotShape& shape, DotFamily family, Operand hidden, Operand weight) {
  std::vector<double> size(index(shape.cols), 1.0);
  for (std::int64_t i = 0; i < 1 + shape.cols / 500; ++i) {
    size[random.below(index(shape.cols))] = i % 2 == 0 ? 40.0 : 1000.0;
  }
  for (std::int64_t n = 0; n < shape.rows; ++n) {
    for (std::int64_t k = 0; k < shape.cols; ++k) {
      hidden.set(n, k, element(random, family, shape.hidden, n, size[index(k)]));
    }
  }
  for (std::int64_t v = 0; v < shape.vocab; ++v) {
    for (std::int64_t k = 0; k < shape.cols; ++k) weight.set(v, k, element(random, family, shape.weight, v, 1.0));
  }
}

// Neighbouring columns share h; their weights are opposite, one of them now and then an ulp off.
void fill_cancelling(Random& random, const DotShape& shape, Operand hidden, Operand weight) {
  for (std::int64_t n = 0; n < shape.rows; ++n) {
    double h = 0;
    for (std::int64_t k = 0; k < shape.cols; ++k) {
      if (k % 2 == 0) {
        h = random.normal();
        h = std::ldexp(h, static_cast<int>(random.between(-8, 8)));
      }
      hidden.set(n, k, h);
    }
  }
  const double ulp = shape.weight == DType::f32 ? 0x1p-23 : shape.weight == DType::bf16 ? 0x1p-7 : 0x1p-10;
  for (std::int64_t v = 0; v < shape.vocab; ++v) {
    double w = 0;
    for (std::int64_t k = 0; k < shape.cols; ++k) {
      if (k % 2 == 0) {
        w = random.sign();
        w *= 1.0 + random.uniform();
      }
      const double off = k % 2 == 1 && random.below(16) == 0 ? 1.0 + ulp : 1.0;
      weight.set(v, k, k % 2 == 0 ? w : -w * off);
    }
  }
}

// Sums built bit by bit. Four columns carry the 25 bits of an odd integer, which makes the sum a midpoint of two f32
// numbers; a fifth adds 2^-60 of that, takes it away, or nothing; all others are pairs that cancel exactly but are
// large enough to drown the fifth in any plain sum. Every number here fits even bf16 and f16, so nothing is rounded.
void fill_ties(Random& random, const DotShape& shape, bool at_overflow, Operand hidden, Operand weight) {
  if (shape.cols < 5) throw std::invalid_argument("near ties need at least 5 columns");
  const bool narrow_hidden = shape.hidden == DType::f16;
  const bool narrow_weight = shape.weight == DType::f16;
  const bool reaches_limit = at_overflow && !(narrow_hidden && narrow_weight);
  std::vector<std::int64_t> place(index(shape.cols));
  std::iota(place.begin(), place.end(), 0);
  for (std::size_t i = place.size(); i-- > 1;) std::swap(place[i], place[random.below(i + 1)]);
  const auto pairs = (shape.cols - 5) / 2;

  std::vector<double> noise;  // of the hidden rows' pairs
  for (std::int64_t i = 0; i < pairs; ++i) {
    const double sign = random.sign();
    const auto exponent = static_cast<int>(random.between(-6, 13));
    noise.push_back(sign * std::ldexp(static_cast<double>(random.between(64, 127)), exponent));
  }
  const int limit_hidden = narrow_hidden ? -6 : narrow_weight ? 103 : 63;
  for (std::int64_t n = 0; n < shape.rows; ++n) {
    for (std::int64_t k = 0; k < shape.cols; ++k) hidden.set(n, k, 0.0);
    const int exponent = reaches_limit ? limit_hidden : narrow_hidden ? -6 : static_cast<int>(random.between(-30, 30));
    const double unit = random.sign() * std::ldexp(1.0, exponent);
    for (std::int64_t i = 0; i < 4; ++i) hidden.set(n, place[index(i)], std::ldexp(unit, static_cast<int>(7 * i)));
    hidden.set(n, place[4], std::ldexp(unit, -18));
    for (std::int64_t i = 0; i < pairs; ++i) {
      hidden.set(n, place[index(5 + 2 * i)], unit * noise[index(i)]);
      hidden.set(n, place[index(6 + 2 * i)], unit * noise[index(i)]);
    }
  }
  for (std::int64_t v = 0; v < shape.vocab; ++v) {
    const int exponent = reaches_limit   ? 103 - limit_hidden
                         : narrow_weight ? 0
                                         : static_cast<int>(random.between(-30, 30));
    const double unit = std::ldexp(1.0, exponent);
    const std::uint64_t odd = at_overflow ? (1U << 25) - 1 : (1U << 24) + 2 * random.below(1U << 23) + 1;
    for (std::int64_t k = 0; k < shape.cols; ++k) weight.set(v, k, unit);  // against zeros of h
    for (std::int64_t i = 0; i < 4; ++i) {
      weight.set(v, place[index(i)], unit * static_cast<double>((odd >> (7 * i)) & 0x7F));
    }
    constexpr double nudges[] = {0x1p-18, -0x1p-18, 0.0, 0x1.02p-18, -0x1.02p-18, 0x1p-14};
    weight.set(v, place[4], unit * nudges[random.below(std::size(nudges))]);
    for (std::int64_t i = 0; i < pairs; ++i) {
      const double sign = random.sign();
      const double w = unit * sign * static_cast<double>(random.between(1, 127));
      weight.set(v, place[index(5 + 2 * i)], w);
      weight.set(v, place[index(6 + 2 * i)], -w);
    }
  }
}

}  // namespace

std::uint64_t Random::next() {
  state_ += 0x9E3779B97F4A7C15U;
  std::uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

std::int64_t Random::between(std::int64_t lowest, std::int64_t highest) {
  return lowest + static_cast<std::int64_t>(below(static_cast<std::uint64_t>(highest - lowest) + 1));
}

double Random::uniform() { return std::ldexp(static_cast<double>(next() >> 11), -53); }

double Random::normal() {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += uniform();
  return sum;
}

std::string_view name_of(DotFamily family) {
  constexpr std::string_view names[] = {"normal",   "outliers",  "constant",       "cancellation",
                                        "near_tie", "subnormal", "wide_exponents", "signed_zeros",
                                        "specials", "zero_rows", "overflow_limit"};
  return names[static_cast<std::size_t>(family)];
}

MatrixView DotData::hidden_view() const { return {hidden.data(), shape.hidden, shape.rows, shape.cols, shape.cols}; }
MatrixView DotData::weight_view() const { return {weight.data(), shape.weight, shape.vocab, shape.cols, shape.cols}; }
VectorView DotData::bias_view() const {
  return shape.bias ? VectorView{bias.data(), *shape.bias, shape.vocab} : VectorView{};
}

DotData make_dot(const DotShape& shape, DotFamily family, std::uint64_t seed) {
  Random random(seed * 64 + static_cast<std::uint64_t>(family));
  DotData data{shape, {}, {}, {}, {}, {}, {}};
  const std::size_t hidden_count = index(shape.rows * shape.cols);
  const std::size_t weight_count = index(shape.vocab * shape.cols);
  data.hidden.resize(hidden_count * dtype_size(shape.hidden));
  data.weight.resize(weight_count * dtype_size(shape.weight));
  const Operand hidden{data.hidden, shape.hidden, shape.cols};
  const Operand weight{data.weight, shape.weight, shape.cols};
  const bool ties = family == DotFamily::near_tie || family == DotFamily::overflow_limit;
  if (ties) {
    fill_ties(random, shape, family == DotFamily::overflow_limit, hidden, weight);
  } else if (family == DotFamily::cancellation) {
    fill_cancelling(random, shape, hidden, weight);
  } else {
    fill_independent(random, shape, family, hidden, weight);
  }
  if (shape.bias) {
    data.bias.resize(index(shape.vocab) * dtype_size(*shape.bias));
    Operand bias{data.bias, *shape.bias, 1};
    for (std::int64_t v = 0; v < shape.vocab; ++v) {
      bias.set(v, 0, ties ? 0.0 : element(random, family, *shape.bias, v, 1.0));
    }
    data.bias_values = decode_all(*shape.bias, data.bias.data(), index(shape.vocab));
  }
  data.hidden_values = decode_all(shape.hidden, data.hidden.data(), hidden_count);
  data.weight_values = decode_all(shape.weight, data.weight.data(), weight_count);
  return data;
}

}  // namespace isologit::oracle
