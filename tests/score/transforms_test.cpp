// Softcap, scale and temperature (CONTRACT.md 2): each kernel's loops alone, then all of them with a bias in score.
#include "tiles/transforms.hpp"

#include <array>
#include <cmath>
#include <limits>

#include "kernels/target.hpp"
#include "oracle/cases.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_score {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();
constexpr float smallest = std::numeric_limits<float>::denorm_min();

// Logits of all sizes, and around the cap where softcap bends: from too small to see to saturated.
std::vector<float> logits_around(float cap, std::uint64_t seed) {
  std::vector<float> z = {0,        1,          -1,       smallest, -smallest, 0x1p-126F, 0x1.fffffcp-127F,
                          0x1p100F, -0x1p-100F, largest,  -largest, infinity,  -infinity, std::nanf(""),
                          cap,      -cap,       10 * cap, -10 * cap};
  oracle::Random random(seed);
  for (int i = 0; i < 46; ++i) {
    const auto exponent = static_cast<int>(random.between(-30, 6));
    z.push_back(
        static_cast<float>(random.sign() * std::ldexp((1 + random.uniform()) * static_cast<double>(cap), exponent)));
  }
  for (int i = 0; i < 64; ++i) z.push_back(static_cast<float>(20 * random.normal()));
  for (int i = 0; i < 32; ++i) {
    z.push_back(static_cast<float>(
        std::ldexp(random.sign() * (1 + random.uniform()), static_cast<int>(random.between(-149, 127)))));
  }
  z.resize((z.size() + 15) / 16 * 16, 0.0F);
  return z;
}

class Transformed : public KernelTest {
 protected:
  // The logits after the transforms, from the kernel's loops and from the oracle, are the same.
  void expect_right(const std::vector<float>& z, const Transforms& transforms, float temperature) const {
    std::vector<float> found = z;
    const auto count = static_cast<std::int64_t>(found.size());
    const auto target = detail::kernels::choose(GetParam(), Arithmetic::exact);
    detail::tiles::apply(transforms, (*target)->fold_loops(), found.data(), count, nullptr);
    detail::tiles::apply_temperature(temperature, found.data(), count);
    for (std::size_t i = 0; i < z.size(); ++i) {
      const float expected = oracle::transform(z[i], transforms, temperature);
      ASSERT_TRUE(same_logit(found[i], expected))
          << std::hexfloat << z[i] << " gives " << found[i] << "; expected " << expected << "; softcap "
          << transforms.softcap << " scale " << transforms.scale << " temperature " << temperature;
    }
  }
};

constexpr std::array<float, 11> caps = {smallest, 3 * smallest, 0x1p-130F, 1e-3F, 1,      15,
                                        30,       50,           0x1p40F,   1e30F, largest};

TEST_P(Transformed, Softcap) {
  Transforms transforms;
  transforms.has_softcap = true;
  std::uint64_t seed = 0;
  for (const float cap : caps) {
    transforms.softcap = cap;
    for (int round = 0; round < (is_reference() || instrumented ? 1 : 10); ++round) {
      expect_right(logits_around(cap, ++seed), transforms, 1);
    }
  }
}

TEST_P(Transformed, Scale) {
  Transforms transforms;
  for (const float scale : {1.0F, 0.0625F, 0.83333333F, -1.25F, 1.0F / 3, 1e-38F, smallest, 3e38F, -largest}) {
    transforms.scale_kind = ScaleKind::multiply;
    transforms.scale = scale;
    expect_right(logits_around(30, 1), transforms, 1);
    if (scale < 0) continue;
    transforms.scale_kind = ScaleKind::divide;
    expect_right(logits_around(30, 2), transforms, 1);
  }
}

TEST_P(Transformed, Temperature) {
  for (const float temperature : {1.0F, 0.7F, 1.3F, 3.0F, 1e-3F, smallest, largest}) {
    expect_right(logits_around(30, 3), {}, temperature);
  }
}

TEST_P(Transformed, AllInOrder) {
  for (const TransformOrder order : {TransformOrder::softcap_first, TransformOrder::scale_first}) {
    for (const float cap : {1e-3F, 30.0F, largest}) {
      for (const float scale : {0.0390625F, -3.3F, 1e20F}) {
        Transforms transforms{true, cap, ScaleKind::multiply, scale, order};
        expect_right(logits_around(cap, 4), transforms, 0.9F);
        transforms.scale_kind = ScaleKind::divide;
        transforms.scale = std::fabs(scale);
        expect_right(logits_around(cap, 5), transforms, 1.7F);
      }
    }
  }
}

// All of it at once: operands, bias, transforms, a temperature for each row, a vocabulary that ends inside a tile, and
// rows past it that must never be seen.
TEST_P(Transformed, InScoreWithBiasAndTemperatureByRow) {
  const std::int64_t rows = 4;
  const std::int64_t vocab = is_reference() || instrumented ? 37 : 150;
  const std::int64_t padded = vocab + 50;
  std::uint64_t seed = 0;
  for (const oracle::DotFamily family : oracle::dot_families) {
    for (const ScaleKind kind : {ScaleKind::none, ScaleKind::multiply, ScaleKind::divide}) {
      ++seed;
      const oracle::DotShape shape{rows, padded, 20, DType::bf16, DType::f16, DType::f32};
      oracle::DotData data = make_dot(shape, family, seed);
      for (std::size_t i = static_cast<std::size_t>(vocab * 20); i < static_cast<std::size_t>(padded * 20); ++i) {
        oracle::encode(DType::f16, data.weight.data(), i, i % 2 == 0 ? std::nanf("") : 65504.0F);
      }
      Head head;
      head.weight = data.weight_view();
      head.bias = data.bias_view();
      head.vocab_size = vocab;
      head.transforms = {seed % 2 == 0, 12.5F, kind, kind == ScaleKind::multiply ? -0.7F : 1.9F,
                         seed % 4 < 2 ? TransformOrder::softcap_first : TransformOrder::scale_first};
      const std::vector<float> temperatures =
          seed % 3 == 0 ? std::vector<float>{0.6F} : std::vector<float>{1, 0.7F, 2.5F, 0.01F};
      const std::vector<std::int64_t> ids = {vocab - 1, 0, 20, 3};
      const Outputs outputs = score_all(head, data.hidden_view(), ids, temperatures, options(2));
      for (std::int64_t n = 0; n < rows; ++n) {
        const float temperature = temperatures[temperatures.size() == 1 ? 0 : static_cast<std::size_t>(n)];
        std::vector<float> z;
        for (std::int64_t v = 0; v < vocab; ++v) {
          const float logit = oracle::logit(data.hidden_row(n), data.weight_row(v), 20, data.bias_of(v));
          z.push_back(oracle::transform(logit, head.transforms, temperature));
        }
        ASSERT_TRUE(row_is_right(outputs, n, z, ids[static_cast<std::size_t>(n)]))
            << oracle::name_of(family) << " scale kind " << static_cast<int>(kind);
      }
    }
  }
}

ISOLOGIT_FOR_EACH_KERNEL(Transformed);

}  // namespace
}  // namespace isologit::testing_score
