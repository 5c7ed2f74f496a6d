// The logprobs of all ids of two rows of logits, and their gradient.
#include <cstdio>
#include <isologit/given_logits.hpp>

int main() {
  const float logits[2][3] = {{1.0F, 2.0F, 3.0F}, {40.0F, -0.5F, 0.0F}};
  float logprobs[2][3];

  isologit::GivenLogitsRequest request;
  request.logits = {logits, isologit::DType::f32, 2, 3, 3};  // data, dtype, rows, columns, stride in elements
  request.log_softmax = logprobs[0];
  request.log_softmax_row_stride = 3;
  if (const auto report = isologit::score_logits(request); !report) {
    std::fprintf(stderr, "%s\n", report.error().message.c_str());
    return 1;
  }

  const float upstream[2][3] = {{1, 0, 0}, {1, 0, 0}};  // of the first id's logprob
  float dlogits[2][3];
  isologit::GivenLogitsBackwardRequest backward;
  backward.logits = request.logits;
  backward.d_log_softmax = {upstream, isologit::DType::f32, 2, 3, 3};
  backward.dlogits = dlogits[0];
  backward.dlogits_row_stride = 3;
  if (!isologit::backward_logits(backward)) return 1;

  for (int row = 0; row < 2; ++row) {
    for (int id = 0; id < 3; ++id) {
      std::printf("%.9g %.9g\n", static_cast<double>(logprobs[row][id]), static_cast<double>(dlogits[row][id]));
    }
  }
}
