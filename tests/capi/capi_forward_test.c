/* The operators of a forward pass from C. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "isologit/forward_backward.h"

static int failures = 0;

#define EXPECT(condition)                                             \
  do {                                                                \
    if (!(condition)) {                                               \
      printf("%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                     \
    }                                                                 \
  } while (0)

/* [2, 1, 4] of f32. */
static isologit_tensor tensor(const float* data) {
  isologit_tensor x = {data, 2, 1, 4, 4, 4, ISOLOGIT_F32};
  return x;
}

static isologit_tensor_output output(float* data) {
  isologit_tensor_output y = {data, 4, 4};
  return y;
}

static const float kX[8] = {1, -1, 1, -1, 2, 2, -2, 2};
static float y[8];
static char message[200];

static void norms(void) {
  isologit_rms_norm_request rms = {.struct_size = sizeof rms, .x = tensor(kX), .y = output(y)};
  isologit_forward_report report = {.struct_size = sizeof report};
  isologit_forward_options options = {.struct_size = sizeof options, .threads = 1, .kernel = "portable"};
  EXPECT(isologit_rms_norm(&rms, &options, &report, message, sizeof message) == ISOLOGIT_OK);
  for (int i = 0; i < 8; ++i) EXPECT(y[i] == (kX[i] > 0 ? 1 : -1));
  EXPECT(strcmp(report.kernel, "portable") == 0 && report.threads == 1 && report.processors >= 1);
  rms.epsilon = -1;
  EXPECT(isologit_rms_norm(&rms, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  EXPECT(strstr(message, "epsilon: -1") != NULL);
  rms.epsilon = 0;
  rms.x.dtype = 9;
  EXPECT(isologit_rms_norm(&rms, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  EXPECT(strstr(message, "x: dtype is 9") != NULL);
  isologit_layer_norm_request layer = {.struct_size = sizeof layer, .x = tensor(kX), .y = output(y)};
  EXPECT(isologit_layer_norm(&layer, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  EXPECT(y[0] == 1 && y[1] == -1);
  layer.struct_size = 3;
  EXPECT(isologit_layer_norm(&layer, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
}

static void elementwise(void) {
  isologit_residual_request residual = {
      .struct_size = sizeof residual, .x = tensor(kX), .a = tensor(kX), .multiplier = 0.5F, .y = output(y)};
  EXPECT(isologit_residual(&residual, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  EXPECT(y[0] == 1.5F && y[6] == -3);
  isologit_gate_request gate = {
      .struct_size = sizeof gate, .kind = ISOLOGIT_RELU_SQUARED, .gate = tensor(kX), .up = tensor(kX), .y = output(y)};
  EXPECT(isologit_gate(&gate, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  EXPECT(y[0] == 1 && y[1] == 0 && y[4] == 8);
  gate.kind = 4;
  EXPECT(isologit_gate(&gate, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  EXPECT(strstr(message, "kind: 4") != NULL);
}

static void rotary(void) {
  float frequencies[2] = {0, 0};
  isologit_rotary_frequencies_request of = {
      .struct_size = sizeof of, .theta = 10000, .dim = 4, .frequencies = frequencies};
  EXPECT(isologit_rotary_frequencies(&of, NULL, 0) == ISOLOGIT_OK);
  EXPECT(frequencies[0] == 1 && frequencies[1] == 0.01F);
  of.scaling = 3;
  EXPECT(isologit_rotary_frequencies(&of, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  const int64_t positions[2] = {0, 1};
  isologit_rotary_request turn = {.struct_size = sizeof turn,
                                  .x = tensor(kX),
                                  .positions = positions,
                                  .frequencies = frequencies,
                                  .frequency_count = 2,
                                  .factor = 1,
                                  .y = output(y)};
  EXPECT(isologit_rotary(&turn, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  EXPECT(y[0] == 1 && y[3] == -1);
  EXPECT(y[4] == (float)2.7635465813520726); /* 2 cos 1 + 2 sin 1 */
  turn.positions = NULL;
  EXPECT(isologit_rotary(&turn, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  EXPECT(strstr(message, "positions: NULL") != NULL);
}

/* Of one sequence. */
static isologit_attention_request attention_of_x(void) {
  static const int64_t query_starts[2] = {0, 2}, key_counts[1] = {2}, first_keys[1] = {0};
  isologit_attention_request attention = {.struct_size = sizeof attention,
                                          .q = tensor(kX),
                                          .keys = tensor(kX),
                                          .values = tensor(kX),
                                          .sequences = 1,
                                          .query_starts = query_starts,
                                          .key_counts = key_counts,
                                          .first_keys = first_keys,
                                          .scale = 1};
  return attention;
}

static void attention_and_linear(void) {
  isologit_attention_request attention = attention_of_x();
  attention.y = output(y);
  EXPECT(isologit_attention(&attention, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  EXPECT(memcmp(y, kX, 4 * sizeof *y) == 0); /* the first query sees the first key alone */
  attention.sequences = -1;
  EXPECT(isologit_attention(&attention, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  attention.sequences = 1;
  attention.first_keys = NULL;
  EXPECT(isologit_attention(&attention, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  EXPECT(strstr(message, "first_keys: NULL") != NULL);
  isologit_linear_request linear = {.struct_size = sizeof linear,
                                    .x = {kX, 2, 4, 4, ISOLOGIT_F32},
                                    .weight = {kX, 2, 4, 4, ISOLOGIT_F32},
                                    .y = y,
                                    .y_row_stride = 2};
  EXPECT(isologit_linear(&linear, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  EXPECT(y[0] == 4 && y[1] == -4 && y[2] == -4 && y[3] == 16);
}

static float other[8];

static void gradients(void) {
  isologit_gate_backward_request gate = {.struct_size = sizeof gate,
                                         .kind = ISOLOGIT_RELU_SQUARED,
                                         .gate = tensor(kX),
                                         .up = tensor(kX),
                                         .dy = tensor(kX),
                                         .dgate = output(y),
                                         .dup = output(other)};
  EXPECT(isologit_gate_backward(&gate, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  EXPECT(y[0] == 2 && y[1] == 0 && y[4] == 16 && other[4] == 8 && other[6] == 0);
  gate.kind = -1;
  EXPECT(isologit_gate_backward(&gate, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  /* A row of equal sizes: what lies along it has no gradient, and 2 r u is left of the last element. */
  const float dy[8] = {0, 0, 0, 0, 0, 0, 0, 8};
  float dbias[4];
  isologit_layer_norm_backward_request layer = {.struct_size = sizeof layer,
                                                .x = tensor(kX),
                                                .dbias_dtype = ISOLOGIT_F32,
                                                .dy = tensor(dy),
                                                .dx = output(y),
                                                .dbias = dbias};
  EXPECT(isologit_layer_norm_backward(&layer, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  EXPECT(y[0] == 0 && dbias[0] == 0 && dbias[3] == 8);
  isologit_rms_norm_backward_request rms = {
      .struct_size = sizeof rms, .x = tensor(kX), .dy = tensor(dy), .dx = output(y)};
  EXPECT(isologit_rms_norm_backward(&rms, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  EXPECT(y[4] == -1 && y[6] == 1 && y[7] == 3);
  isologit_attention_backward_request attention = {.struct_size = sizeof attention, .dy = tensor(dy)};
  EXPECT(isologit_attention_backward(&attention, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  EXPECT(strstr(message, "attention: NULL") != NULL);
  isologit_attention_request of = attention_of_x();
  of.window = 1;
  attention.attention = &of;
  attention.dq = output(y);
  attention.dvalues = output(other);
  EXPECT(isologit_attention_backward(&attention, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  for (int i = 0; i < 8; ++i) EXPECT(y[i] == 0 && other[i] == dy[i]); /* each sees itself alone */
}

int main(void) {
  norms();
  elementwise();
  rotary();
  attention_and_linear();
  gradients();
  return failures != 0;
}
