// Log-probabilities of two tokens under a head of three tokens and hidden size 2.
#include <cstdint>
#include <cstdio>
#include <isologit/score.hpp>

int main() {
  const float weight[3][2] = {{1.0F, 0.5F}, {-0.25F, 2.0F}, {0.0F, 1.0F}};  // [V, H], row-major, never copied
  const float hidden[2][2] = {{3.0F, -1.0F}, {0.5F, 40.0F}};                // [N, H]
  const std::int64_t token_ids[2] = {0, 1};
  float logprobs[2];

  isologit::Head head;
  head.weight = {weight, isologit::DType::f32, 3, 2, 2};  // data, dtype, rows, columns, stride in elements
  head.vocab_size = 3;

  isologit::ScoreRequest request;
  request.hidden = {hidden, isologit::DType::f32, 2, 2, 2};
  request.token_ids = token_ids;
  request.logprobs = logprobs;

  const isologit::Result<isologit::ScoreReport> report = isologit::score(head, request);
  if (!report) {
    std::fprintf(stderr, "%s\n", report.error().message.c_str());
    return 1;
  }
  std::printf("%.9g %.9g\n", static_cast<double>(logprobs[0]), static_cast<double>(logprobs[1]));
}
