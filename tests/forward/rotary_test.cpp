// Rotary embeddings and their frequencies against the oracle.
#include <algorithm>
#include <cmath>

#include "forward/tensors.hpp"
#include "kernels/registry.hpp"
#include "kernels/target.hpp"
#include "oracle/interval.hpp"

namespace isologit::test {
namespace {

using forward::RotaryLayout;
using oracle::Random;

void check(Family family, DType dtype, RotaryLayout layout, const std::vector<std::int64_t>& positions,
           const std::vector<float>& frequencies, float factor, std::uint64_t seed) {
  Random random(seed);
  const auto tokens = static_cast<std::int64_t>(positions.size());
  const auto pairs = static_cast<std::int64_t>(frequencies.size());
  const std::int64_t dim = 2 * pairs + 3;
  const Tensor x = Tensor::random(random, family, dtype, tokens, 2, dim, 1);
  for (const std::string& kernel : exact_kernels()) {
    Tensor y(dtype, tokens, 2, dim, 2);
    const auto report =
        forward::rotary({x.view(), positions, frequencies, layout, factor, y.output()}, options_of(2, kernel));
    ASSERT_TRUE(report) << report.error().message;
    ASSERT_TRUE(y.gaps_untouched());
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t j = 0; j < pairs; ++j) {
          const std::int64_t one = layout == RotaryLayout::halves ? j : 2 * j;
          const std::int64_t two = layout == RotaryLayout::halves ? j + pairs : 2 * j + 1;
          const double a = x.at(t, h, one), b = x.at(t, h, two);
          const auto m = static_cast<double>(factor);
          const std::int64_t position = positions[static_cast<std::size_t>(t)];
          const auto f = static_cast<double>(frequencies[static_cast<std::size_t>(j)]);
          ASSERT_TRUE(same(y.at(t, h, one), oracle::turned(m, a, -b, position, f, format_of(dtype))))
              << kernel << ' ' << name_of(family) << ' ' << dtype_name(dtype) << ' ' << a << ' ' << b << ' ' << position
              << ' ' << f;
          ASSERT_TRUE(same(y.at(t, h, two), oracle::turned(m, b, a, position, f, format_of(dtype))))
              << kernel << ' ' << name_of(family) << ' ' << dtype_name(dtype) << ' ' << a << ' ' << b << ' ' << position
              << ' ' << f;
        }
        for (std::int64_t d = 2 * pairs; d < dim; ++d) ASSERT_TRUE(same(y.at(t, h, d), x.at(t, h, d)));
      }
    }
  }
}

TEST(Rotary, EveryFamilyAndType) {
  const auto frequencies = forward::rotary_frequencies(10000, 18);
  ASSERT_TRUE(frequencies);
  std::uint64_t seed = 1;
  for (const Family family : families) {
    for (const DType dtype : dtypes) {
      for (const RotaryLayout layout : {RotaryLayout::halves, RotaryLayout::pairs}) {
        check(family, dtype, layout, {0, 1, 2, 4095, 1048576, 2147483647}, *frequencies, seed % 2 == 0 ? 1.0F : 1.2079F,
              seed);
        ++seed;
      }
    }
  }
}

// The loops of every kernel that has some.
std::vector<std::pair<std::string, const detail::kernels::ForwardLoops*>> all_loops() {
  std::vector<std::pair<std::string, const detail::kernels::ForwardLoops*>> all;
  for (const std::string& kernel : exact_kernels()) {
    const auto target = detail::kernels::choose(kernel, Arithmetic::exact);
    if (target && (*target)->forward_loops() != nullptr) all.emplace_back(kernel, (*target)->forward_loops());
  }
  return all;
}

double distance(const oracle::Real& right, double found) {
  oracle::Real error(128);
  mpfr_sub_d(error.get(), right.get(), found, MPFR_RNDN);
  return std::fabs(mpfr_get_d(error.get(), MPFR_RNDN));
}

// Angles of all sizes, those next to multiples of pi / 2 among them.
TEST(Rotary, AnglesAreWithinTheirBound) {
  Random random(3);
  // f32 fractions whose multiples come near to multiples of pi / 2.
  const float near[] = {1.0F, 0x1.921fb6p-1F, 0x1.921fb4p-1F, 0x1.5p-20F, 0x1p-32F, 0x1p-149F, 0.0F};
  const auto all = all_loops();
  for (int i = 0; i < 200000; ++i) {
    const std::int64_t position = i % 3 == 0 ? random.between(0, 4096) : random.between(0, 2147483647);
    const float frequency = i % 4 == 0
                                ? near[random.below(7)]
                                : static_cast<float>(std::ldexp(random.uniform(), -static_cast<int>(random.below(30))));
    oracle::Real angle(200), sine(128), cosine(128);
    mpfr_set_d(angle.get(), static_cast<double>(position), MPFR_RNDN);
    mpfr_mul_d(angle.get(), angle.get(), static_cast<double>(frequency), MPFR_RNDN);
    mpfr_sin_cos(sine.get(), cosine.get(), angle.get(), MPFR_RNDN);
    const std::vector<float> frequencies(16, frequency);
    std::vector<double> cosines(16), sines(16);
    for (const auto& [kernel, loops] : all) {
      loops->turns(position, frequencies.data(), 1, cosines.data(), sines.data());
      ASSERT_LT(distance(sine, sines[0]), 0x1p-50) << kernel << ' ' << position << ' ' << frequency;
      ASSERT_LT(distance(cosine, cosines[0]), 0x1p-50) << kernel << ' ' << position << ' ' << frequency;
    }
  }
}

TEST(Rotary, FrequenciesAreRoundedOnce) {
  for (const float theta : {10000.0F, 500000.0F, 1000000.0F, 65536.0F, 1.5F}) {
    for (const std::int64_t dim : {2, 10, 64, 128}) {
      for (const float divisor : {1.0F, 4.0F, 3.3F}) {
        const auto found = forward::rotary_frequencies(theta, dim, divisor);
        ASSERT_TRUE(found);
        for (std::int64_t j = 0; j < dim / 2; ++j) {
          ASSERT_EQ(
              (*found)[static_cast<std::size_t>(j)],
              oracle::rotary_frequency(static_cast<double>(theta), j, dim, static_cast<double>(divisor), nullptr));
        }
      }
    }
  }
  const oracle::Llama3 right{8, 1, 4, 8192};
  const auto found = forward::rotary_frequencies(500000, 128, forward::Llama3Scaling{8, 1, 4, 8192});
  ASSERT_TRUE(found);
  for (std::int64_t j = 0; j < 64; ++j) {
    ASSERT_EQ((*found)[static_cast<std::size_t>(j)], oracle::rotary_frequency(500000, j, 128, 1, &right)) << j;
  }
}

}  // namespace
}  // namespace isologit::test
