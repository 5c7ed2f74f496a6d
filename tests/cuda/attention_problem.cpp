#include <cmath>

#include "attention.hpp"
#include "isologit/forward.hpp"

namespace isologit::detail::cuda {

using oracle::Random;

namespace {

forward::TensorView view_of(const isologit_tensor& x) {
  return {x.data, static_cast<DType>(x.dtype), x.tokens, x.heads, x.dim, x.token_stride, x.head_stride};
}

}  // namespace

Operands random_operands(const Problem& p, Family family, std::uint64_t seed) {
  Random random(seed);
  const std::int64_t gap = p.aligned ? 8 : 2;
  return {Laid::random(random, family, p.dtype, count_of(p.queries), p.heads, p.dim, 1),
          Laid::random(random, family, p.dtype, count_of(p.keys), p.kv_heads, p.dim, p.aligned ? 0 : 1, p.aligned),
          Laid::random(random, family, p.dtype, count_of(p.keys), p.kv_heads, p.value_dim, gap, p.aligned)};
}

isologit_cuda_attention_request request_of(const Problem& p, const Operands& operands, Lists& lists, const Laid& y) {
  lists = {starts_of(p.queries), starts_of(p.keys)};
  isologit_cuda_attention_request request = {};
  request.q = operands.q.view();
  request.keys = operands.k.view();
  request.values = operands.v.view();
  request.sequences = static_cast<std::int64_t>(p.queries.size());
  request.query_starts = lists.query_starts.data();
  request.key_counts = p.keys.data();
  request.first_keys = lists.first_keys.data();
  request.scale = p.scale;
  request.softcap = p.softcap;
  request.not_causal = p.causal ? 0 : 1;
  request.window = p.window;
  request.sinks = p.sinks.empty() ? nullptr : p.sinks.data();
  request.y = y.output();
  return request;
}

Status make(isologit_cuda_attention_request request, int splits) {
  Status status = {77, 77};
  request.status = &status.open;
  std::vector<Sixteen> workspace(1 << 20);
  request.workspace = workspace.data();
  request.workspace_size = workspace.size() * sizeof(Sixteen);
  EXPECT_EQ(check_request(request), "");
  AttentionRequest asked = kernels_request(request);
  if (splits > 0) {
    workspace.resize(static_cast<std::size_t>(attention_plan(asked).blocks * splits) * 2200);
    asked.splits = splits;
    asked.partials = workspace.data();
  }
  std::memset(static_cast<void*>(workspace.data()), 0xA5, workspace.size() * sizeof(Sixteen));
  HostLauncher launcher;
  status = {};
  launch_attention(launcher, asked);
  return status;
}

Attended attend(const Problem& p, const Operands& operands) {
  Lists lists;
  Laid y(p.dtype, count_of(p.queries), p.heads, p.value_dim, 3);
  const Status status = make(request_of(p, operands, lists, y), p.splits);
  EXPECT_EQ(status.wrong, 0U);
  EXPECT_TRUE(y.gaps_untouched() && y.nans_are_the_one());
  return {std::move(y), status};
}

std::uint32_t check(const Problem& p, const Operands& operands, const std::string& what, std::int64_t each) {
  const Attended found = attend(p, operands);
  std::uint32_t open = 0;
  std::int64_t number = 0;
  for (std::size_t s = 0; s < p.queries.size(); ++s) {
    for (std::int64_t i = 0; i < p.queries[s]; ++i) {
      for (std::int64_t h = 0; h < p.heads; ++h) {
        for (std::int64_t d = 0; d < p.value_dim; ++d) {
          if (number++ % each != 0) continue;
          const double made = found.y.at(starts_of(p.queries)[s] + i, h, d);
          const double expected = test::right(p, operands, s, i, h, d);
          if (std::isnan(made) && !std::isnan(expected)) {
            ++open;
            continue;
          }
          EXPECT_TRUE(same(made, expected)) << what << ' ' << dtype_name(p.dtype) << " sequence " << s << " query " << i
                                            << " head " << h << " element " << d;
          if (testing::Test::HasFailure()) return open;
        }
      }
    }
  }
  if (each == 1) {
    EXPECT_EQ(found.status.open, open) << what << ' ' << dtype_name(p.dtype);
  }
  return open;
}

void check_by_library(const Problem& p, const Operands& operands, const std::string& what) {
  const Attended found = attend(p, operands);
  EXPECT_EQ(found.status.open, 0U) << what;
  Lists lists;
  const Laid y(p.dtype, count_of(p.queries), p.heads, p.value_dim, 3);
  const isologit_cuda_attention_request asked = request_of(p, operands, lists, y);
  lists.first_keys.pop_back();
  const auto request =
      test::request_of(p, view_of(asked.q), view_of(asked.keys), view_of(asked.values), lists.query_starts,
                       lists.first_keys, {asked.y.data, asked.y.token_stride, asked.y.head_stride});
  ASSERT_TRUE(forward::attention(request));
  EXPECT_TRUE(found.y == y) << what << ' ' << dtype_name(p.dtype);
}

}  // namespace isologit::detail::cuda
