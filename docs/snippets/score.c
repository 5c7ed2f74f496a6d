/* The same from C. */
#include <isologit/isologit.h>
#include <stdio.h>

int main(void) {
  const float weight[3][2] = {{1.0F, 0.5F}, {-0.25F, 2.0F}, {0.0F, 1.0F}};
  const float hidden[2][2] = {{3.0F, -1.0F}, {0.5F, 40.0F}};
  const int64_t token_ids[2] = {0, 1};
  float logprobs[2];

  const isologit_head head = {
      .struct_size = sizeof head,
      .weight = {.data = weight, .rows = 3, .cols = 2, .row_stride = 2, .dtype = ISOLOGIT_F32},
      .vocab_size = 3,
  };
  const isologit_score_request request = {
      .struct_size = sizeof request,
      .hidden = {.data = hidden, .rows = 2, .cols = 2, .row_stride = 2, .dtype = ISOLOGIT_F32},
      .token_ids = token_ids,
      .logprobs = logprobs,
  };
  char message[512];
  if (isologit_score(&head, &request, NULL, NULL, message, sizeof message) != ISOLOGIT_OK) {
    fprintf(stderr, "%s\n", message);
    return 1;
  }
  printf("%.9g %.9g\n", (double)logprobs[0], (double)logprobs[1]);
  return 0;
}
