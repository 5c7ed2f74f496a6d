// Gradients against their definitions in f64, which are nearer to the real numbers than the bound; layouts, threads and
// what is refused.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "forward/tensors.hpp"
#include "isologit/forward_backward.hpp"

namespace isologit::test {
namespace {

using forward::GateKind;
using oracle::Random;

constexpr double kBound = 0x1p-24;  // CONTRACT.md 10

void expect_near(double found, double right, double magnitude, DType dtype, const std::string& what) {
  const double rounding = dtype == DType::f32 ? 0x1p-24 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
  const double smallest = dtype == DType::f16 ? 0x1p-25 : 0x1p-150;
  EXPECT_LE(std::fabs(found - right),
            magnitude * kBound + (std::fabs(right) + magnitude * kBound) * rounding + smallest)
      << what << ": " << found << ", right is " << right;
}

double sum_over(std::int64_t count, const std::function<double(std::int64_t)>& term) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += term(i);
  return sum;
}

struct NormProblem {
  Tensor x, dy;
  Vector weight;
  Tensor dx;
  std::vector<float> dweight, dbias;
};

NormProblem norm_problem(DType dtype, std::int64_t tokens) {
  Random random(3);
  return {Tensor::random(random, Family::cancellation, dtype, tokens, 2, 21, 3),
          Tensor::random(random, Family::normal, dtype, tokens, 2, 21, 1),
          random_vector(random, Family::normal, DType::f32, 21),
          Tensor(dtype, tokens, 2, 21, 2),
          std::vector<float>(21),
          std::vector<float>(21)};
}

void run(NormProblem& p, bool centred, const forward::Options& options) {
  const auto report =
      centred ? layer_norm_backward({p.x.view(), p.weight.view(), 1e-5F, p.dy.view(), p.dx.output(), p.dweight.data(),
                                     p.dbias.data(), DType::f32},
                                    options)
              : rms_norm_backward(
                    {p.x.view(), p.weight.view(), 1e-5F, true, p.dy.view(), p.dx.output(), p.dweight.data()}, options);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(p.dx.gaps_untouched());
}

TEST(NormBackward, IsTheDefinitions) {
  constexpr std::int64_t kTokens = 70, kDim = 21;
  for (const bool centred : {false, true}) {
    for (const DType dtype : dtypes) {
      for (const std::string& kernel : exact_kernels()) {
        NormProblem p = norm_problem(dtype, kTokens);
        run(p, centred, options_of(2, kernel));
        std::vector<double> weight(kDim), bias(kDim), magnitude(kDim), bias_magnitude(kDim);
        for (std::int64_t row = 0; row < 2 * kTokens; ++row) {
          const std::vector<double> x = p.x.row(row / 2, row % 2), dy = p.dy.row(row / 2, row % 2);
          const auto at = [](const std::vector<double>& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; };
          const double mean = centred ? sum_over(kDim, [&](auto i) { return at(x, i); }) / kDim : 0;
          const auto d = [&](std::int64_t i) { return at(x, i) - mean; };
          const auto u = [&](std::int64_t i) { return at(dy, i) * (at(p.weight.values, i) + (centred ? 0 : 1)); };
          const double epsilon = static_cast<double>(1e-5F);
          const double r = 1 / std::sqrt(sum_over(kDim, [&](auto i) { return d(i) * d(i); }) / kDim + epsilon);
          const double shift = centred ? sum_over(kDim, u) / kDim : 0;
          const double along = sum_over(kDim, [&](auto i) { return u(i) * d(i); }) / kDim;
          const double all = sum_over(kDim, [&](auto i) { return std::fabs(u(i)); });
          for (std::int64_t i = 0; i < kDim; ++i) {
            expect_near(p.dx.at(row / 2, row % 2, i), r * (u(i) - shift - d(i) * r * r * along),
                        r * (std::fabs(u(i)) + all / kDim + std::fabs(d(i)) * r * all), dtype, kernel);
            const auto k = static_cast<std::size_t>(i);
            weight[k] += dy[k] * d(i) * r;
            magnitude[k] += std::fabs(dy[k] * d(i) * r);
            bias[k] += dy[k];
            bias_magnitude[k] += std::fabs(dy[k]);
          }
        }
        for (std::size_t k = 0; k < static_cast<std::size_t>(kDim); ++k) {
          expect_near(static_cast<double>(p.dweight[k]), weight[k], magnitude[k], DType::f32, "dweight");
          if (centred) expect_near(static_cast<double>(p.dbias[k]), bias[k], bias_magnitude[k], DType::f32, "dbias");
        }
      }
    }
  }
}

TEST(NormBackward, ThreadsDoNotShow) {
  NormProblem one = norm_problem(DType::bf16, 500);
  NormProblem many = norm_problem(DType::bf16, 500);
  run(one, true, options_of(1, ""));
  run(many, true, options_of(3, ""));
  EXPECT_TRUE(one.dx == many.dx && one.dweight == many.dweight && one.dbias == many.dbias);
}

TEST(GateBackward, IsTheDefinitions) {
  constexpr std::int64_t kTokens = 6, kDim = 19;
  const double alpha = static_cast<double>(1.702F), cubic = static_cast<double>(0.044715F);
  for (const GateKind kind : {GateKind::silu, GateKind::gelu_tanh, GateKind::relu_squared, GateKind::clamped_swish}) {
    for (const std::string& kernel : exact_kernels()) {
      Random random(4);
      const Tensor fused = Tensor::random(random, Family::normal, DType::f32, kTokens, 2, kDim, 3);
      const Tensor dy = Tensor::random(random, Family::normal, DType::f32, kTokens, 1, kDim);
      forward::TensorView g = fused.view(), u = fused.view();
      g.heads = u.heads = 1;
      u.data = static_cast<const char*>(u.data) + u.head_stride * 4;
      Tensor dg(DType::f32, kTokens, 1, kDim, 1), du(DType::f32, kTokens, 1, kDim, 2);
      const auto report =
          gate_backward({kind, g, u, 1.702F, 1, dy.view(), dg.output(), du.output()}, options_of(2, kernel));
      ASSERT_TRUE(report) << report.error().message;
      EXPECT_TRUE(dg.gaps_untouched() && du.gaps_untouched());
      for (std::int64_t i = 0; i < kTokens * kDim; ++i) {
        const double gate = fused.at(i / kDim, 0, i % kDim), up = fused.at(i / kDim, 1, i % kDim);
        const double upstream = dy.at(i / kDim, 0, i % kDim);
        const bool clamped = kind == GateKind::clamped_swish;
        const double a = clamped ? std::min(gate, 1.0) : gate;
        const double b = clamped ? std::clamp(up, -1.0, 1.0) + 1 : up;
        double value = 0, slope = 0;  // of the gate at a
        if (kind == GateKind::relu_squared) {
          value = std::max(a, 0.0) * std::max(a, 0.0);
          slope = 2 * std::max(a, 0.0);
        } else {
          const double k = 2 * std::sqrt(2 / 3.14159265358979323846);
          const double x = kind == GateKind::silu ? a : clamped ? alpha * a : k * (a + cubic * a * a * a);
          const double dx = kind == GateKind::silu ? 1 : clamped ? alpha : k * (1 + 3 * cubic * a * a);
          const double s = 1 / (1 + std::exp(-x));
          value = a * s;
          slope = s + a * dx * s * (1 - s);
        }
        const bool cut = clamped && gate > 1, cut_up = clamped && std::fabs(up) > 1;
        expect_near(dg.at(i / kDim, 0, i % kDim), cut ? 0 : upstream * b * slope, 4 * std::fabs(upstream * b),
                    DType::f32, kernel);
        expect_near(du.at(i / kDim, 0, i % kDim), cut_up ? 0 : upstream * value, std::fabs(upstream * value),
                    DType::f32, kernel);
      }
    }
  }
}

// Two sequences of one batch, with gaps between them.
struct AttentionProblem {
  static constexpr std::int64_t kQueries = 9, kKeys = 15, kHeads = 4, kKvHeads = 2, kDim = 6, kValueDim = 5;
  Tensor q, k, v, dy;
  std::vector<std::int64_t> starts{0, 5, kQueries}, counts{6, 7}, firsts{1, 8};
  std::vector<float> sinks{0.25F, -1, 2, 0};
  std::vector<float> dsinks = std::vector<float>(kHeads);
  Tensor dq = Tensor(DType::f32, kQueries, kHeads, kDim, 1);
  Tensor dk = Tensor(DType::f32, kKeys, kKvHeads, kDim, 2);
  Tensor dv = Tensor(DType::f32, kKeys, kKvHeads, kValueDim, 3);

  static AttentionProblem make() {
    Random random(5);
    return {Tensor::random(random, Family::normal, DType::f32, kQueries, kHeads, kDim, 1),
            Tensor::random(random, Family::normal, DType::f32, kKeys, kKvHeads, kDim, 2),
            Tensor::random(random, Family::normal, DType::f32, kKeys, kKvHeads, kValueDim),
            Tensor::random(random, Family::normal, DType::f32, kQueries, kHeads, kValueDim, 1)};
  }

  forward::AttentionBackwardRequest request() {
    forward::AttentionBackwardRequest made;
    made.attention.q = q.view();
    made.attention.kv.keys = k.view();
    made.attention.kv.values = v.view();
    made.attention.kv.first_keys = firsts;
    made.attention.query_starts = starts;
    made.attention.key_counts = counts;
    made.attention.scale = 0.5F;
    made.attention.softcap = 2;
    made.attention.window = 4;
    made.attention.sinks = sinks;
    made.dy = dy.view();
    made.dq = dq.output();
    made.dkeys = dk.output();
    made.dvalues = dv.output();
    made.dsinks = dsinks.data();
    return made;
  }
};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void add(std::vector<double>& sums, std::int64_t row, double factor, const std::vector<double>& of) {
  for (std::size_t d = 0; d < of.size(); ++d) sums[static_cast<std::size_t>(row) * of.size() + d] += factor * of[d];
}

TEST(AttentionBackward, IsTheDefinitions) {
  using P = AttentionProblem;
  for (const std::string& kernel : exact_kernels()) {
    P p = P::make();
    const auto report = attention_backward(p.request(), options_of(2, kernel));
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(p.dq.gaps_untouched() && p.dk.gaps_untouched() && p.dv.gaps_untouched());
    std::vector<double> dq(P::kQueries * P::kHeads * P::kDim), dk(P::kKeys * P::kKvHeads * P::kDim),
        dv(P::kKeys * P::kKvHeads * P::kValueDim), dsinks(P::kHeads);
    for (std::size_t s = 0; s < 2; ++s) {
      for (std::int64_t i = p.starts[s]; i < p.starts[s + 1]; ++i) {
        for (std::int64_t h = 0; h < P::kHeads; ++h) {
          const std::int64_t last = p.counts[s] - (p.starts[s + 1] - i);
          const std::int64_t first = std::max<std::int64_t>(last - 3, 0);
          const double sink = std::exp(static_cast<double>(p.sinks[static_cast<std::size_t>(h)]));
          double total = sink, mean = 0;
          std::vector<double> weights, along, slopes;
          for (std::int64_t j = first; j <= last; ++j) {
            const double tanh = std::tanh(0.5 * dot(p.q.row(i, h), p.k.row(p.firsts[s] + j, h / 2)) / 2);
            weights.push_back(std::exp(2 * tanh));
            slopes.push_back(1 - tanh * tanh);
            along.push_back(dot(p.dy.row(i, h), p.v.row(p.firsts[s] + j, h / 2)));
            total += weights.back();
            mean += weights.back() * along.back();
          }
          mean /= total;
          dsinks[static_cast<std::size_t>(h)] -= sink / total * mean;
          for (std::int64_t j = first; j <= last; ++j) {
            const auto at = static_cast<std::size_t>(j - first);
            const std::int64_t key = p.firsts[s] + j;
            const double ds = 0.5 * weights[at] / total * (along[at] - mean) * slopes[at];
            add(dq, i * P::kHeads + h, ds, p.k.row(key, h / 2));
            add(dk, key * P::kKvHeads + h / 2, ds, p.q.row(i, h));
            add(dv, key * P::kKvHeads + h / 2, weights[at] / total, p.dy.row(i, h));
          }
        }
      }
    }
    const auto check = [&](const Tensor& found, const std::vector<double>& right, std::int64_t heads, std::int64_t dim,
                           const std::string& what) {
      for (std::size_t i = 0; i < right.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        expect_near(found.at(at / dim / heads, at / dim % heads, at % dim), right[i], 1, DType::f32, kernel + what);
      }
    };
    check(p.dq, dq, P::kHeads, P::kDim, " dq");
    check(p.dk, dk, P::kKvHeads, P::kDim, " dk");
    check(p.dv, dv, P::kKvHeads, P::kValueDim, " dv");
    for (std::size_t h = 0; h < dsinks.size(); ++h) {
      expect_near(static_cast<double>(p.dsinks[h]), dsinks[h], 1, DType::f32, kernel + " dsinks");
    }
    for (const std::int64_t key : {0, 7}) {
      EXPECT_EQ(p.dk.row(key, 0), std::vector<double>(P::kDim)) << "of no sequence";
    }
  }
}

TEST(AttentionBackward, OfNoQueryIsZero) {
  AttentionProblem p = AttentionProblem::make();
  p.starts = {0, 0, 0};
  p.dsinks = {1, 1, 1, 1};
  forward::AttentionBackwardRequest request = p.request();
  request.attention.q.tokens = request.dy.tokens = 0;
  ASSERT_TRUE(attention_backward(request));
  EXPECT_EQ(p.dsinks, std::vector<float>(4));
  EXPECT_EQ(p.dk.row(1, 0), std::vector<double>(AttentionProblem::kDim));
}

template <class Request>
std::string refusal(const Request& request,
                    Result<forward::Report> (*compute)(const Request&, const forward::Options&)) {
  const auto report = compute(request, {});
  return report ? "" : report.error().message;
}

TEST(Backward, RefusesByName) {
  NormProblem p = norm_problem(DType::f32, 3);
  forward::RmsNormBackwardRequest norm{p.x.view(), {}, 1e-5F, false, p.dy.view(), p.dx.output(), p.dweight.data()};
  EXPECT_EQ(refusal(norm, forward::rms_norm_backward), "dweight: wanted of a norm without weight; expected NULL");
  norm.dweight = nullptr;
  norm.dx = p.x.output();
  EXPECT_NE(refusal(norm, forward::rms_norm_backward).find("dx"), std::string::npos);
  forward::GateBackwardRequest gate{GateKind::silu, p.x.view(), {}, 1, 1, p.dy.view(), p.dx.output(), p.dx.output()};
  EXPECT_EQ(refusal(gate, forward::gate_backward), "dup: wanted of a gate without up; expected NULL");
  AttentionProblem of = AttentionProblem::make();
  forward::AttentionBackwardRequest attention = of.request();
  attention.dsinks = of.sinks.data();
  EXPECT_EQ(refusal(attention, forward::attention_backward), "dsinks: the output buffer overlaps the input sinks");
  attention = of.request();
  const std::vector<std::int64_t> overlapping{1, 6};
  attention.attention.kv.first_keys = overlapping;
  EXPECT_EQ(refusal(attention, forward::attention_backward),
            "first_keys: key 6 is of two sequences; expected sequences apart");
  const std::vector<std::int32_t> table{0, 0};
  attention.attention.kv.block_table = table;
  EXPECT_EQ(refusal(attention, forward::attention_backward),
            "block_table: attention over pages has no gradients; expected keys and values without one");
}

}  // namespace
}  // namespace isologit::test
