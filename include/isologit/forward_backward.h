/* The C interface of the gradients of the forward pass's operators; conventions are those of forward.h, and what the
 * members mean is told, in more words, by forward_backward.hpp. Definitions: CONTRACT.md 10. An output whose data is
 * NULL is not wanted. */
#ifndef ISOLOGIT_FORWARD_BACKWARD_H_
#define ISOLOGIT_FORWARD_BACKWARD_H_

#include "isologit/forward.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct isologit_rms_norm_backward_request {
  size_t struct_size;
  isologit_tensor x;
  isologit_vector weight; /* [dim], or none */
  float epsilon;
  int32_t one_plus_weight;
  isologit_tensor dy;
  isologit_tensor_output dx;
  void* dweight; /* [dim], of the type of weight */
} isologit_rms_norm_backward_request;

typedef struct isologit_layer_norm_backward_request {
  size_t struct_size;
  isologit_tensor x;
  isologit_vector weight; /* [dim], or none */
  float epsilon;
  int32_t dbias_dtype;
  isologit_tensor dy;
  isologit_tensor_output dx;
  void* dweight; /* [dim], of the type of weight */
  void* dbias;   /* [dim], of dbias_dtype */
} isologit_layer_norm_backward_request;

typedef struct isologit_combine_backward_request {
  size_t struct_size;
  const isologit_combine_request* combine; /* its y is not looked at */
  isologit_tensor dy;                      /* [tokens, 1, dim] */
  isologit_tensor_output dx;
  float* dweights; /* [tokens, experts] */
} isologit_combine_backward_request;

typedef struct isologit_gate_backward_request {
  size_t struct_size;
  int32_t kind;
  isologit_tensor gate;
  isologit_tensor up; /* data NULL: none */
  float alpha;
  float limit;
  isologit_tensor dy;
  isologit_tensor_output dgate;
  isologit_tensor_output dup;
} isologit_gate_backward_request;

typedef struct isologit_attention_backward_request {
  size_t struct_size;
  const isologit_attention_request* attention; /* without a block table; its y is not looked at */
  isologit_tensor dy;                          /* [tokens, heads, value_dim] */
  isologit_tensor_output dq;
  isologit_tensor_output dkeys;
  isologit_tensor_output dvalues;
  float* dsinks; /* [heads] */
} isologit_attention_backward_request;

/* options and report may be NULL. */
isologit_status isologit_rms_norm_backward(const isologit_rms_norm_backward_request* request,
                                           const isologit_forward_options* options, isologit_forward_report* report,
                                           char* message, size_t message_size);
isologit_status isologit_layer_norm_backward(const isologit_layer_norm_backward_request* request,
                                             const isologit_forward_options* options, isologit_forward_report* report,
                                             char* message, size_t message_size);
isologit_status isologit_combine_backward(const isologit_combine_backward_request* request,
                                          const isologit_forward_options* options, isologit_forward_report* report,
                                          char* message, size_t message_size);
isologit_status isologit_gate_backward(const isologit_gate_backward_request* request,
                                       const isologit_forward_options* options, isologit_forward_report* report,
                                       char* message, size_t message_size);
isologit_status isologit_attention_backward(const isologit_attention_backward_request* request,
                                            const isologit_forward_options* options, isologit_forward_report* report,
                                            char* message, size_t message_size);

#ifdef __cplusplus
}
#endif

#endif
