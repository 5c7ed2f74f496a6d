/* The C interface of the operators of a forward pass besides the head; conventions are those of isologit.h, and what
 * the members mean is told, in more words, by forward.hpp. Definitions: CONTRACT.md 10. */
#ifndef ISOLOGIT_FORWARD_H_
#define ISOLOGIT_FORWARD_H_

#include "isologit/isologit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Activations [tokens, heads, dim]: element d of head h of token t is at t * token_stride + h * head_stride + d. */
typedef struct isologit_tensor {
  const void* data;
  int64_t tokens;
  int64_t heads; /* 0 means 1 */
  int64_t dim;
  int64_t token_stride; /* in elements, as is head_stride */
  int64_t head_stride;
  int32_t dtype;
} isologit_tensor;

/* Where a result of the operand's shape and type goes. */
typedef struct isologit_tensor_output {
  void* data;
  int64_t token_stride;
  int64_t head_stride;
} isologit_tensor_output;

typedef struct isologit_forward_options {
  size_t struct_size;
  int32_t threads;    /* 0: as many as there are processors to run on */
  const char* kernel; /* as in isologit_score_options, like the members after it */
  int (*progress)(void* user, double share);
  void* user;
  const int32_t* processors;
  int64_t processor_count;
} isologit_forward_options;

typedef struct isologit_forward_report {
  size_t struct_size;
  char kernel[32];
  int32_t threads;
  int32_t processors;
  int64_t settled; /* results that f64 could not prove, decided in wider arithmetic */
} isologit_forward_report;

typedef struct isologit_linear_request {
  size_t struct_size;
  isologit_matrix x;      /* [rows, cols] */
  isologit_matrix weight; /* [features, cols] */
  isologit_vector bias;   /* [features], or none */
  void* y;                /* [rows, features], of the type of x */
  int64_t y_row_stride;
} isologit_linear_request;

typedef struct isologit_rms_norm_request {
  size_t struct_size;
  isologit_tensor x;
  isologit_vector weight; /* [dim], or none */
  float epsilon;
  int32_t one_plus_weight;
  isologit_tensor_output y;
} isologit_rms_norm_request;

typedef struct isologit_layer_norm_request {
  size_t struct_size;
  isologit_tensor x;
  isologit_vector weight; /* [dim], or none */
  isologit_vector bias;   /* [dim], or none */
  float epsilon;
  isologit_tensor_output y;
} isologit_layer_norm_request;

/* y = x + multiplier * a + b */
typedef struct isologit_residual_request {
  size_t struct_size;
  isologit_tensor x;
  isologit_tensor a;
  isologit_tensor b; /* data NULL: none */
  float multiplier;
  isologit_tensor_output y;
} isologit_residual_request;

/* y = the sum of weights[e] * x_e over the experts e of a token. */
typedef struct isologit_combine_request {
  size_t struct_size;
  isologit_tensor x;        /* [tokens, experts, dim] */
  const float* weights;     /* [tokens, experts] */
  isologit_tensor_output y; /* [tokens, 1, dim] */
} isologit_combine_request;

enum { /* kind of gate */
       ISOLOGIT_SILU = 0,
       ISOLOGIT_GELU_TANH = 1,
       ISOLOGIT_RELU_SQUARED = 2,
       ISOLOGIT_CLAMPED_SWISH = 3
};

typedef struct isologit_gate_request {
  size_t struct_size;
  int32_t kind;
  isologit_tensor gate;
  isologit_tensor up; /* data NULL: none */
  float alpha;        /* of clamped_swish, like limit */
  float limit;
  isologit_tensor_output y;
} isologit_gate_request;

enum { ISOLOGIT_ROTARY_HALVES = 0, ISOLOGIT_ROTARY_PAIRS = 1 }; /* layout */

typedef struct isologit_rotary_request {
  size_t struct_size;
  isologit_tensor x;
  const int64_t* positions; /* [tokens] */
  const float* frequencies; /* [frequency_count] */
  int64_t frequency_count;
  int32_t layout;
  float factor;
  isologit_tensor_output y;
} isologit_rotary_request;

enum { ISOLOGIT_ROTARY_LINEAR = 0, ISOLOGIT_ROTARY_LLAMA3 = 1, ISOLOGIT_ROTARY_YARN = 2 }; /* scaling */

/* frequencies[j] = theta^(-2j / dim), scaled, rounded once. */
typedef struct isologit_rotary_frequencies_request {
  size_t struct_size;
  float theta;
  int64_t dim;
  int32_t scaling;
  float factor; /* linear: divides; 0 means 1 */
  float low_freq_factor;
  float high_freq_factor;
  int64_t original_max_position;
  float* frequencies; /* [dim / 2] */
  float beta_fast;    /* of yarn, like the members after it */
  float beta_slow;
  int32_t not_truncated;
} isologit_rotary_frequencies_request;

typedef struct isologit_attention_request {
  size_t struct_size;
  isologit_tensor q;      /* [tokens, heads, dim] */
  isologit_tensor keys;   /* [tokens, kv_heads, dim]; with blocks, `tokens` counts the slots of all blocks */
  isologit_tensor values; /* [tokens, kv_heads, value_dim] */
  int64_t sequences;
  const int64_t* query_starts; /* [sequences + 1] */
  const int64_t* key_counts;   /* [sequences] */
  const int64_t* first_keys;   /* [sequences], or NULL with a block table */
  const int32_t* block_table;  /* [sequences, blocks_per_sequence], or NULL */
  int64_t blocks_per_sequence;
  int64_t block_size;
  int64_t key_block_stride; /* in elements */
  int64_t value_block_stride;
  float scale;
  float softcap;      /* 0: none */
  int32_t not_causal; /* every query sees all keys of its sequence */
  int64_t window;     /* 0: all */
  const float* sinks; /* [heads], or NULL */
  isologit_tensor_output y;
} isologit_attention_request;

/* options and report may be NULL. */
isologit_status isologit_linear(const isologit_linear_request* request, const isologit_forward_options* options,
                                isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_rms_norm(const isologit_rms_norm_request* request, const isologit_forward_options* options,
                                  isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_layer_norm(const isologit_layer_norm_request* request, const isologit_forward_options* options,
                                    isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_residual(const isologit_residual_request* request, const isologit_forward_options* options,
                                  isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_combine(const isologit_combine_request* request, const isologit_forward_options* options,
                                 isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_gate(const isologit_gate_request* request, const isologit_forward_options* options,
                              isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_rotary(const isologit_rotary_request* request, const isologit_forward_options* options,
                                isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_attention(const isologit_attention_request* request, const isologit_forward_options* options,
                                   isologit_forward_report* report, char* message, size_t message_size);
isologit_status isologit_rotary_frequencies(const isologit_rotary_frequencies_request* request, char* message,
                                            size_t message_size);

#ifdef __cplusplus
}
#endif

#endif
