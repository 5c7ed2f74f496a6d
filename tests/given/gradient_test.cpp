// Gradients of given logits against the oracle, bit for bit: upstreams of logprobs, lse and entropy, and dense ones of
// log_softmax.
#include "oracle/gradient.hpp"

#include <array>
#include <limits>
#include <numeric>

#include "given/support.hpp"
#include "oracle/cases.hpp"
#include "oracle/distribution.hpp"
#include "oracle/values.hpp"
#include "score/support.hpp"

namespace isologit::testing_given {
namespace {

using oracle::Random;
using oracle::RowFamily;
using testing_score::instrumented;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Upstreams; those that are empty are not given.
struct Upstream {
  std::vector<float> d_logprobs, d_lse, d_entropy;
  std::vector<float> d_log_softmax;  // [N, V]
};

float draw(Random& random) { return static_cast<float>(random.normal()); }

Upstream draw_upstream(const Given& given, std::uint64_t seed) {
  Random random(seed);
  Upstream upstream;
  for (std::size_t i = 0; i < given.token_ids.size(); ++i) upstream.d_logprobs.push_back(draw(random));
  for (std::int64_t i = 0; i < given.rows; ++i) {
    upstream.d_lse.push_back(seed % 3 == 0 ? 0 : draw(random));
    upstream.d_entropy.push_back(seed % 2 == 0 ? 0 : draw(random));
  }
  return upstream;
}

// Of the kinds of dense upstreams: any, of one id, that add up to nothing, of very different sizes, none.
Upstream draw_dense(const Given& given, std::uint64_t seed) {
  Random random(seed);
  Upstream upstream;
  for (std::int64_t i = 0; i < given.rows; ++i) {
    std::vector<float> g(at(given.vocab));
    const auto kind = (seed + static_cast<std::uint64_t>(i)) % 5;
    for (float& x : g) {
      if (kind == 0 || kind == 2) x = draw(random);
      if (kind == 3) x = static_cast<float>(std::ldexp(random.normal(), static_cast<int>(random.between(-60, 60))));
    }
    if (kind == 1) g[random.below(g.size())] = draw(random);
    if (kind == 2) {
      for (std::size_t v = 0; v + 1 < g.size(); v += 2) g[v + 1] = -g[v];
      if (g.size() % 2 == 1) g.back() = 0;
    }
    upstream.d_log_softmax.insert(upstream.d_log_softmax.end(), g.begin(), g.end());
  }
  return upstream;
}

std::vector<float> run(const Given& given, const Upstream& upstream, const std::string& kernel, int threads = 1) {
  constexpr std::int64_t kGap = 2;
  const std::int64_t stride = given.vocab + kGap;
  std::vector<float> dlogits(at(given.rows * stride), 7);
  GivenLogitsBackwardRequest request;
  request.logits = given.view();
  request.temperatures = given.temperatures;
  request.token_ids = given.token_ids;
  request.ids_per_row = given.ids_per_row;
  const auto pointer = [](const std::vector<float>& x) { return x.empty() ? nullptr : x.data(); };
  request.d_logprobs = pointer(upstream.d_logprobs);
  request.d_lse = pointer(upstream.d_lse);
  request.d_entropy = pointer(upstream.d_entropy);
  if (!upstream.d_log_softmax.empty()) {
    request.d_log_softmax = {upstream.d_log_softmax.data(), DType::f32, given.rows, given.vocab, given.vocab};
  }
  request.dlogits = dlogits.data();
  request.dlogits_row_stride = stride;
  BackwardOptions options;
  options.kernel = kernel;
  options.threads = threads;
  const auto report = backward_logits(request, options);
  if (!report) ADD_FAILURE() << report.error().message;
  std::vector<float> found;
  for (std::int64_t i = 0; i < given.rows; ++i) {
    const auto row = dlogits.begin() + i * stride;
    found.insert(found.end(), row, row + given.vocab);
    for (std::int64_t k = 0; k < kGap; ++k) EXPECT_EQ(row[given.vocab + k], 7);
  }
  return found;
}

// CONTRACT.md 5, with the special rows of 3.
std::vector<float> expected_row(const Given& given, const Upstream& upstream, std::int64_t i) {
  oracle::RowUpstream of_row;
  std::vector<float> zero(at(given.vocab), 0);
  if (!upstream.d_log_softmax.empty()) {
    const auto g = upstream.d_log_softmax.begin() + i * given.vocab;
    of_row.a.assign(g, g + given.vocab);
    of_row.ids.resize(at(given.vocab));
    std::iota(of_row.ids.begin(), of_row.ids.end(), 0);
  } else {
    bool ignored = !given.token_ids.empty();
    for (std::int64_t k = i * given.ids_per_row; k < (i + 1) * given.ids_per_row && ignored; ++k) {
      ignored = given.token_ids[at(k)] == -100;
    }
    if (ignored) return zero;
    for (std::int64_t k = 0; k < given.ids_per_row && !upstream.d_logprobs.empty(); ++k) {
      const std::int64_t id = given.token_ids[at(i * given.ids_per_row + k)];
      if (id == -100) continue;
      of_row.ids.push_back(id);
      of_row.a.push_back(upstream.d_logprobs[at(i * given.ids_per_row + k)]);
    }
    if (!upstream.d_lse.empty()) of_row.b = upstream.d_lse[at(i)];
    if (!upstream.d_entropy.empty()) of_row.c = upstream.d_entropy[at(i)];
  }
  if (of_row.all_zero()) return zero;
  const std::vector<float> z(given.values.begin() + i * given.vocab, given.values.begin() + (i + 1) * given.vocab);
  const std::vector<float> last = given.last(i);
  const bool finite = std::isfinite(of_row.b) && std::isfinite(of_row.c) &&
                      std::all_of(of_row.a.begin(), of_row.a.end(), [](float a) { return std::isfinite(a); });
  if (!finite || oracle::Row(last).kind() != oracle::RowKind::ordinary) {
    return std::vector<float>(at(given.vocab), oracle::quiet_nan());
  }
  const float t = given.temperatures.empty() ? 1.0F : given.temperatures[given.temperatures.size() == 1 ? 0 : at(i)];
  return oracle::dz_of_row(z, {}, of_row, {}, t);
}

class GivenGradient : public testing_score::KernelTest {
 protected:
  void expect_right(const Given& given, const Upstream& upstream, const std::string& what) const {
    const std::vector<float> found = run(given, upstream, GetParam());
    for (std::int64_t i = 0; i < given.rows; ++i) {
      const std::vector<float> right = expected_row(given, upstream, i);
      for (std::int64_t v = 0; v < given.vocab; ++v) {
        const float x = found[at(i * given.vocab + v)];
        ASSERT_EQ(oracle::bits_of(x), oracle::bits_of(right[at(v)]))
            << what << ": dlogits[" << i << ", " << v << "] is " << std::hexfloat << x << ", expected " << right[at(v)];
      }
    }
  }

  std::vector<std::vector<float>> rows_of(RowFamily family, std::int64_t vocab) const {
    std::vector<std::vector<float>> rows;
    const std::uint64_t seeds = is_reference() || instrumented ? 3 : 6;
    for (std::uint64_t seed = 0; seed < seeds; ++seed) rows.push_back(oracle::make_row(family, vocab, seed));
    return rows;
  }
};

TEST_P(GivenGradient, OfLogprobsLseAndEntropy) {
  for (const RowFamily family : oracle::row_families) {
    for (const std::int64_t vocab : {1, 2, 17, 300}) {
      if (is_reference() && vocab > 17) continue;
      Given given = make_given(rows_of(family, vocab));
      given.draw_ids(1 + vocab % 3, static_cast<std::uint64_t>(vocab));
      for (std::uint64_t seed = 0; seed < 3; ++seed) {
        Upstream upstream = draw_upstream(given, seed);
        // Gaps of 2^100 beside both b and c take the oracle more bits than there are.
        if (family == RowFamily::midpoint_gap || family == RowFamily::masked_like) upstream.d_entropy.clear();
        expect_right(given, upstream, std::string(oracle::name_of(family)) + " vocab " + std::to_string(vocab));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GivenGradient, OfLogSoftmax) {
  for (const RowFamily family : oracle::row_families) {
    for (const std::int64_t vocab : {1, 2, 16, 130, 300}) {
      if (is_reference() && vocab > 16) continue;
      const Given given = make_given(rows_of(family, vocab));
      for (std::uint64_t seed = 0; seed < 3; ++seed) {
        expect_right(
            given, draw_dense(given, seed),
            std::string(oracle::name_of(family)) + " vocab " + std::to_string(vocab) + " seed " + std::to_string(seed));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GivenGradient, WithTemperaturesTypesAndLayouts) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    Given given = make_given(rows_of(RowFamily::normal, is_reference() ? 10 : 140), {dtype, 3, 1, dtype == DType::f16});
    given.draw_ids(2, 3);
    for (std::int64_t i = 0; i < given.rows; ++i) given.temperatures.push_back(0.4F + 0.3F * static_cast<float>(i));
    expect_right(given, draw_upstream(given, 1), "temperatures");
    expect_right(given, draw_dense(given, 1), "temperatures, dense");
  }
}

// One upstream of one certain token: dz there is what is left of 1 - p.
TEST_P(GivenGradient, OfCertainTokens) {
  std::vector<std::vector<float>> rows;
  for (const float top : {5.0F, 20.0F, 50.0F, 200.0F, 2000.0F, 3e6F}) {
    std::vector<float> z(20, 0.25F);
    z[3] = top;
    rows.push_back(z);
  }
  const Given given = make_given(rows);
  Upstream upstream;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::vector<float> g(20, 0);
    g[3] = -0.7F;
    upstream.d_log_softmax.insert(upstream.d_log_softmax.end(), g.begin(), g.end());
  }
  expect_right(given, upstream, "certain");
}

TEST_P(GivenGradient, OfUpstreamsThatAreNotFinite) {
  Given given = make_given(rows_of(RowFamily::normal, 20));
  given.draw_ids(1, 4);
  Upstream upstream = draw_upstream(given, 1);
  upstream.d_entropy[0] = infinity;
  upstream.d_lse[1] = oracle::quiet_nan();
  expect_right(given, upstream, "not finite");
  Upstream dense = draw_dense(given, 0);
  dense.d_log_softmax[7] = infinity;
  dense.d_log_softmax[20] = infinity;
  dense.d_log_softmax[21] = -infinity;
  expect_right(given, dense, "not finite, dense");
}

TEST_P(GivenGradient, DoesNotDependOnThreads) {
  Given given = make_given(rows_of(RowFamily::normal, is_reference() ? 16 : 500));
  given.draw_ids(2, 4);
  for (const Upstream& upstream : {draw_upstream(given, 1), draw_dense(given, 0)}) {
    const auto one = run(given, upstream, GetParam());
    for (const int threads : {2, 5, 32}) EXPECT_EQ(run(given, upstream, GetParam(), threads), one) << threads;
  }
}

ISOLOGIT_FOR_EACH_KERNEL(GivenGradient);

template <class Change>
void expect_refused(const std::string& message, Change change) {
  const std::vector<float> z(6, 1), g(6, 1);
  std::vector<float> dlogits(6);
  GivenLogitsBackwardRequest request;
  request.logits = {z.data(), DType::f32, 2, 3, 3};
  request.d_log_softmax = {g.data(), DType::f32, 2, 3, 3};
  request.dlogits = dlogits.data();
  request.dlogits_row_stride = 3;
  BackwardOptions options;
  options.threads = 1;  // so that it is the calling thread that sees any progress
  ASSERT_TRUE(backward_logits(request, options).has_value());
  change(request, options);
  const auto report = backward_logits(request, options);
  ASSERT_FALSE(report.has_value()) << message;
  EXPECT_NE(report.error().message.find(message), std::string::npos) << report.error().message;
}

TEST(GivenGradientInput, IsChecked) {
  using Request = GivenLogitsBackwardRequest;
  const float one = 1;
  expect_refused("token_ids: none given, but d_logprobs are", [&](Request& r, BackwardOptions&) {
    r.d_log_softmax = {};
    r.d_logprobs = &one;
  });
  expect_refused("d_log_softmax: given together with", [&](Request& r, BackwardOptions&) { r.d_lse = &one; });
  expect_refused("d_log_softmax: bf16; expected f32",
                 [](Request& r, BackwardOptions&) { r.d_log_softmax.dtype = DType::bf16; });
  expect_refused("d_log_softmax: shape [1, 3]; expected [2, 3]",
                 [](Request& r, BackwardOptions&) { r.d_log_softmax.rows = 1; });
  expect_refused("dlogits: null", [](Request& r, BackwardOptions&) { r.dlogits = nullptr; });
  expect_refused("dlogits: a row stride of 2", [](Request& r, BackwardOptions&) { r.dlogits_row_stride = 2; });
  expect_refused("dlogits: the output buffer overlaps the input d_log_softmax", [](Request& r, BackwardOptions&) {
    r.dlogits = static_cast<float*>(const_cast<void*>(r.d_log_softmax.data));
  });
  expect_refused("cancelled by the progress callback",
                 [](Request&, BackwardOptions& o) { o.progress = [](double) { return false; }; });
  expect_refused("cancelled by the progress callback", [&](Request& r, BackwardOptions& o) {
    static const float both[] = {1, 1};
    r.d_log_softmax = {};
    r.d_lse = both;
    o.progress = [](double) { return false; };
  });
}

}  // namespace
}  // namespace isologit::testing_given
