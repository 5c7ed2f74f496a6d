// Four draws from a head of three tokens and hidden size 2: two rows, at two positions of one sequence.
#include <cstdint>
#include <cstdio>
#include <isologit/sample.hpp>

int main() {
  const float weight[3][2] = {{1.0F, 0.5F}, {-0.25F, 2.0F}, {0.0F, 1.0F}};  // [V, H]
  const float hidden[4][2] = {{3.0F, -1.0F}, {0.5F, 1.0F}, {3.0F, -1.0F}, {0.5F, 1.0F}};
  const std::uint64_t seed = 42;
  const std::uint64_t sequence_id = 7;
  const std::uint32_t positions[4] = {0, 0, 1, 1};
  const float top_p = 0.95F;
  std::int64_t ids[4];
  float logprobs[4];
  float cut_logprobs[4];

  isologit::Head head;
  head.weight = {weight, isologit::DType::f32, 3, 2, 2};
  head.vocab_size = 3;

  isologit::SampleRequest request;
  request.hidden = {hidden, isologit::DType::f32, 4, 2, 2};
  request.seeds = {&seed, 1};
  request.sequence_ids = {&sequence_id, 1};
  request.positions = positions;
  request.top_p = {&top_p, 1};
  request.ids = ids;
  request.logprobs = logprobs;
  request.cut_logprobs = cut_logprobs;

  const isologit::Result<isologit::SampleReport> report = isologit::sample(head, request);
  if (!report) {
    std::fprintf(stderr, "%s\n", report.error().message.c_str());
    return 1;
  }
  for (int i = 0; i < 4; ++i) {
    std::printf("%lld %.9g %.9g\n", static_cast<long long>(ids[i]), static_cast<double>(logprobs[i]),
                static_cast<double>(cut_logprobs[i]));
  }
}
