// RMSNorm and residual sums by the CUDA kernels, compiled for the host, against the oracle: bits.
#include "cuda/norm.cuh"

#include <gmpxx.h>

#include "activations.hpp"

namespace isologit::detail::cuda {
namespace {

using oracle::Random;
using test::Vector;

isologit_vector vector_of(const Vector* w) {
  if (w == nullptr) return {};
  return {w->bytes.data(), static_cast<std::int64_t>(w->values.size()), static_cast<std::int32_t>(w->dtype)};
}

void norm(const Laid& x, const Vector* weight, float epsilon, bool one_plus_weight, const Laid& y) {
  isologit_cuda_rms_norm_request request = {};
  request.x = x.view();
  request.weight = vector_of(weight);
  request.epsilon = epsilon;
  request.one_plus_weight = one_plus_weight;
  request.y = y.output();
  make_on_host(request, [](auto& launcher, const auto& r) { launch_rms_norm(launcher, r); });
}

// `times` elements of each row, spread over it.
void check_norm(Family family, DType type, DType weight_type, std::int64_t dim, bool weighted, bool one_plus_weight,
                float epsilon, std::uint64_t seed, std::int64_t times = 1 << 20) {
  Random random(seed);
  const Laid x = Laid::random(random, family, type, 3, 2, dim, 1);
  const Vector weight = random_vector(random, family, weight_type, dim);
  const Laid y(type, 3, 2, dim, 3);
  norm(x, weighted ? &weight : nullptr, epsilon, one_plus_weight, y);
  ASSERT_TRUE(y.gaps_untouched() && y.nans_are_the_one());
  const std::int64_t step = std::max<std::int64_t>(dim / times, 1);
  for (std::int64_t t = 0; t < 3; ++t) {
    for (std::int64_t h = 0; h < 2; ++h) {
      const auto row = x.row(t, h);
      for (std::int64_t d = 0; d < dim; d += step) {
        const double w = weighted ? weight.values[static_cast<std::size_t>(d)] : 1.0;
        const double right = oracle::rms_norm(row, static_cast<std::size_t>(d), w, static_cast<double>(epsilon),
                                              weighted && one_plus_weight, format_of(type));
        ASSERT_TRUE(same(y.at(t, h, d), right))
            << name_of(family) << ' ' << dtype_name(type) << " [" << t << ", " << h << ", " << d << "] of " << dim;
      }
    }
  }
}

TEST(CudaNorm, EveryFamilyAndType) {
  std::uint64_t seed = 1;
  for (const Family family : families) {
    for (const DType type : dtypes) {
      for (const std::int64_t dim : {1, 16, 37, 100}) {
        for (const bool one_plus_weight : {false, true}) {
          check_norm(family, type, type, dim, seed % 5 != 0, one_plus_weight, seed % 4 == 0 ? 0.0F : 1e-6F, seed);
          ++seed;
        }
      }
      check_norm(family, type, DType::f32, 1037, true, seed % 2 == 0, 1e-5F, seed, 4);  // a block a row
    }
  }
  check_norm(Family::normal, DType::f32, DType::bf16, 64, true, true, 1e-5F, 100);
}

// Rows whose smaller squares each addition of f64 loses: what a factor is then off by is within what is said of it.
TEST(CudaNorm, FactorsAreWithinTheirBound) {
  Random random(6);
  double most = 0;
  for (int i = 0; i < 2000; ++i) {
    const int count = static_cast<int>(random.between(1, 4000));
    const double small = std::ldexp(1 + random.uniform(), i % 2 == 0 ? -28 : -static_cast<int>(random.below(40)));
    const auto x = static_cast<double>(static_cast<float>(small));
    double squares = 1.0;
    for (int k = 1; k < count; ++k) squares += x * x;
    const RowRoot root = root_of(squares, count, 1e-6F, count);
    mpq_class exact = 1 + (count - 1) * mpq_class(x) * mpq_class(x);
    exact = exact / count + mpq_class(static_cast<double>(1e-6F));
    const double off = mpq_class(mpq_class(root.factor) * mpq_class(root.factor) * exact - 1).get_d() / 2;
    ASSERT_LT(std::fabs(off), root.error) << count << ' ' << x;
    most = std::max(most, std::fabs(off));
  }
  EXPECT_GT(most, 0x1p-46);
}

// What f64 leaves open is told by squares: of two neighbours, the right one and another, it tells the right one.
TEST(CudaNorm, SquaresTellTheRightNeighbour) {
  Random random(5);
  for (const Family family : {Family::normal, Family::wide, Family::tiny, Family::cancellation, Family::few_values}) {
    for (const DType type : dtypes) {
      for (const bool adds_one : {false, true}) {
        constexpr std::int64_t kDim = 40;
        const Laid x = Laid::random(random, family, type, 1, 1, kDim);
        const Vector weight = random_vector(random, family, DType::f32, kDim);
        const float epsilon = 1e-6F;
        Accumulator exact = {};
        const auto add = [&](int digit, std::uint64_t part) { exact.digit[digit] += part; };
        for (std::int64_t d = 0; d < kDim; ++d) accumulate(x.at(0, 0, d) * x.at(0, 0, d), add);
        accumulate(static_cast<double>(epsilon) * kDim, add);
        carry(exact);
        const auto row = x.row(0, 0);
        for (std::int64_t d = 0; d < kDim; ++d) {
          const double w = weight.values[static_cast<std::size_t>(d)];
          const double right = oracle::rms_norm(row, static_cast<std::size_t>(d), w, static_cast<double>(epsilon),
                                                adds_one, format_of(type));
          if (!std::isfinite(right) || right == 0) continue;
          const auto value = static_cast<float>(right);
          const auto other = [&](double to) {  // the type's next number towards it
            const std::int64_t step = type == DType::bf16 ? 1 << 16 : 1;
            double beside = right;
            for (std::int64_t i = 1; beside == right; ++i) {
              auto bits = static_cast<std::int64_t>(bit_cast<std::uint32_t>(value));
              bits += (std::fabs(to) > std::fabs(right) ? 1 : -1) * step * i;
              beside = static_cast<double>(round_once(
                  static_cast<double>(bit_cast<float>(static_cast<std::uint32_t>(bits))), static_cast<int>(type)));
            }
            return static_cast<float>(beside);
          };
          for (const Ends& ends : {Ends{value, other(2 * right)}, Ends{other(0.5 * right), value}}) {
            ASSERT_TRUE(same(static_cast<double>(told_by_squares(ends, row[static_cast<std::size_t>(d)], w, adds_one,
                                                                 kDim, exact, static_cast<int>(type))),
                             right))
                << name_of(family) << ' ' << dtype_name(type) << ' ' << d;
          }
        }
      }
    }
  }
}

// Rows of 4 and -4: with an epsilon of 0 or 48 results are the weights times a power of two, and weights of f32 between
// two numbers of bf16 are ties; next to them, by the last bit of f32, they are none.
TEST(CudaNorm, ExactTiesGoToEven) {
  for (const std::int64_t dim : {16, 2048}) {
    for (const float epsilon : {0.0F, 48.0F}) {
      Laid x(DType::bf16, 1, 1, dim);
      const Laid y(DType::bf16, 1, 1, dim);
      Random random(7);
      Vector weight = random_vector(random, Family::normal, DType::f32, dim);
      for (std::int64_t d = 0; d < dim; ++d) {
        x.set(0, 0, d, d % 2 == 0 ? 4.0 : -4.0);
        const float tie = 1.0F + static_cast<float>(2 * (d % 64) + 1) * 0x1p-8F;
        const float w = d % 3 == 0 ? tie : std::nextafterf(tie, d % 3 == 1 ? 0.0F : 2.0F);
        weight.values[static_cast<std::size_t>(d)] = static_cast<double>(w);
        std::memcpy(weight.bytes.data() + 4 * d, &w, sizeof w);
      }
      norm(x, &weight, epsilon, false, y);
      for (std::int64_t d = 0; d < dim; d += dim / 1000 * 10 + 1) {  // each third kind, far into the row
        const double right =
            oracle::rms_norm(x.row(0, 0), static_cast<std::size_t>(d), weight.values[static_cast<std::size_t>(d)],
                             static_cast<double>(epsilon), false, oracle::format_bf16);
        ASSERT_TRUE(same(y.at(0, 0, d), right)) << d << ' ' << epsilon;
      }
    }
  }
}

TEST(CudaNorm, TheGreatestNumberAndHalfAPlaceMore) {
  for (const DType type : dtypes) {
    const double places = type == DType::bf16 ? 8 : type == DType::f16 ? 11 : 24;
    const double top = type == DType::f16 ? 0x1p16 : 0x1p128;
    const double least = top * (1 - std::ldexp(1.0, static_cast<int>(-places)));
    EXPECT_EQ(past_greatest(static_cast<int>(type)), (least + top) / 2);
  }
}

TEST(CudaNorm, InPlace) {
  Random random(8);
  for (const std::int64_t dim : {64, 1500}) {
    const Laid x = Laid::random(random, Family::few_values, DType::bf16, 5, 2, dim);  // many ties
    const Laid y(DType::bf16, 5, 2, dim);
    Vector weight = random_vector(random, Family::few_values, DType::f32, dim);
    norm(x, &weight, 0, false, y);
    norm(x, &weight, 0, false, x);
    EXPECT_TRUE(x == y);
  }
}

void add(const Laid& x, const Laid& a, const Laid* b, float multiplier, const Laid& y) {
  isologit_cuda_residual_request request = {};
  request.x = x.view();
  request.a = a.view();
  if (b != nullptr) request.b = b->view();
  request.multiplier = multiplier;
  request.y = y.output();
  make_on_host(request, [](auto& launcher, const auto& r) { launch_residual(launcher, r); });
}

TEST(CudaResidual, EveryFamilyAndType) {
  Random random(1);
  for (const Family family : families) {
    for (const DType type : dtypes) {
      for (const int terms : {2, 3}) {
        const std::int64_t dim = terms == 2 ? 53 : 1100;
        const Laid x = Laid::random(random, family, type, 2, 2, dim, 1);
        const Laid a = Laid::random(random, family, type, 2, 2, dim, 2);
        const Laid b = Laid::random(random, family, type, 2, 2, dim);
        const float multiplier = random.below(2) == 0 ? 1.0F : 0.22F;
        const Laid y(type, 2, 2, dim, 5);
        add(x, a, terms == 3 ? &b : nullptr, multiplier, y);
        ASSERT_TRUE(y.gaps_untouched() && y.nans_are_the_one());
        for (std::int64_t row = 0; row < 4; ++row) {
          for (std::int64_t d = 0; d < dim; ++d) {
            const std::int64_t t = row / 2, h = row % 2;
            const double third = terms == 3 ? b.at(t, h, d) : 0;
            const double right =
                oracle::residual(x.at(t, h, d), static_cast<double>(multiplier), a.at(t, h, d), third, format_of(type));
            ASSERT_TRUE(same(y.at(t, h, d), right)) << name_of(family) << ' ' << dtype_name(type) << ' ' << d;
          }
        }
      }
    }
  }
}

// x + a on a boundary, and b of any size beside it: by way of f64 the latter is lost.
TEST(CudaResidual, NearTies) {
  for (const DType type : {DType::bf16, DType::f32}) {
    const int places = type == DType::bf16 ? 8 : 24;
    constexpr std::int64_t kDim = 96;
    Laid x(type, 1, 1, kDim), a(type, 1, 1, kDim), b(type, 1, 1, kDim);
    for (std::int64_t d = 0; d < kDim; ++d) {
      x.set(0, 0, d, 1 + static_cast<double>(d % 32) * std::ldexp(1.0, 1 - places));
      a.set(0, 0, d, std::ldexp(1.0, -places));
      b.set(0, 0, d, static_cast<double>(d % 3 - 1) * std::ldexp(1.0, -60 - static_cast<int>(d / 2)));
    }
    const Laid y(type, 1, 1, kDim);
    add(x, a, &b, 1, y);
    for (std::int64_t d = 0; d < kDim; ++d) {
      const double right = oracle::residual(x.at(0, 0, d), 1, a.at(0, 0, d), b.at(0, 0, d), format_of(type));
      ASSERT_TRUE(same(y.at(0, 0, d), right)) << dtype_name(type) << ' ' << d;
    }
  }
}

}  // namespace
}  // namespace isologit::detail::cuda
