/* The C interface of isologit's CUDA library (libisologit_cuda): what CONTRACT.md says of logits, computed on an NVIDIA
 * GPU from operands in its memory. C11; no types of CUDA or C++.
 *
 * Conventions are those of isologit.h, and:
 * - Pointers to operands, results and workspace are to memory of the device; elements lie at multiples of their size.
 * - Work is put on the caller's stream and a call returns before it is done. Nothing is allocated, nothing waited for
 * and nothing read back, so calls can be captured into CUDA graphs. All except isologit_cuda_self_test.
 * - An error of a kernel that runs later is reported by CUDA itself, as of any other kernel. */
#ifndef ISOLOGIT_CUDA_H_
#define ISOLOGIT_CUDA_H_

#include "isologit/forward.h"

#if defined(__GNUC__)
#define ISOLOGIT_CUDA_API __attribute__((visibility("default")))
#else
#define ISOLOGIT_CUDA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Added to the arithmetic of a request or self-test: products of more than 16 rows (fast: more than 64) by wgmma, which
 * devices of compute capability 9.0 have. No bit depends on it. It has not been timed, so it is not the default. No
 * enumerator: C++20 deprecates `|` of two enumerations. */
#define ISOLOGIT_CUDA_WGMMA 2

typedef struct isologit_cuda_logits_request {
  size_t struct_size;
  int32_t device;         /* the number of the device, as CUDA counts them */
  void* stream;           /* a cudaStream_t of that device; NULL: its default stream */
  isologit_matrix hidden; /* [N, H], H at most 2^20 */
  isologit_matrix weight; /* [V, H] */
  isologit_vector bias;   /* [V], or none */
  int64_t vocab_size;     /* 1 to weight.rows; later rows are never read */
  int32_t arithmetic;     /* ISOLOGIT_EXACT or ISOLOGIT_FAST: see isologit_cuda_logits; + ISOLOGIT_CUDA_WGMMA */
  int32_t has_softcap;    /* these five as in isologit_head */
  float softcap;
  int32_t scale_kind;
  float scale;
  int32_t transform_order;
  const float* temperatures; /* in memory of the device, each above 0 and finite; they are not looked at */
  int64_t temperature_count; /* 0 (all are 1), 1 (for all rows) or N */
  void* logits;              /* [N, vocab_size] */
  int32_t logits_dtype;      /* ISOLOGIT_F32; without softcap, scale and temperatures also ISOLOGIT_BF16 or
                              * ISOLOGIT_F16: the sum is rounded once to it */
  int64_t logits_stride;     /* in elements; at least vocab_size */
  /* [2]: how many numbers after a softcap the kernels could not prove, which are NaN (one in 2^50 or fewer), and 0.
   * NULL: there is no softcap. */
  uint32_t* status;
  void* workspace;       /* memory for the time of the call's work, at a multiple of 16 */
  size_t workspace_size; /* in bytes; at least isologit_cuda_logits_workspace */
} isologit_cuda_logits_request;

/* The bytes of workspace for N rows of H elements of this dtype: at most 4, (bf16) 7 or (f32) 8 a hidden element of
 * 1024 rows, and 304 a row. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_logits_workspace(int64_t rows, int64_t cols, int32_t dtype,
                                                                 size_t* bytes, char* message, size_t message_size);

/* logits[n, v] = RN(sum of hidden[n, k] weight[v, k] + bias[v]), the real number rounded once to logits_dtype. Rows of
 * weight that lie at multiples of 16 bytes and hold a multiple of 8 elements are read fastest. Softcap, scale and
 * temperature follow, each one rounding (CONTRACT.md 2). ISOLOGIT_FAST: sums in f32 by the tensor cores in an order
 * that no number of rows changes, within a bound (src/cuda/fast.cuh), logits in f32; of hidden states and weight both
 * in bf16 or both in f16. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_logits(const isologit_cuda_logits_request* request, char* message,
                                                       size_t message_size);

/* What a head says of given ids and of each row: CONTRACT.md 3, each result rounded once. Of logits [N, V] only a block
 * is ever in memory. Pointers to numbers of rows, the support's among them, are to memory of the device. */
typedef struct isologit_cuda_score_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_matrix hidden; /* [N, H], H at most 2^20 */
  isologit_matrix weight; /* [V, H] */
  isologit_vector bias;   /* [V], or none */
  int64_t vocab_size;     /* 1 to weight.rows */
  int32_t arithmetic;     /* of the logits: ISOLOGIT_EXACT, or ISOLOGIT_FAST as in isologit_cuda_logits */
  int32_t has_softcap;    /* these five as in isologit_head */
  float softcap;
  int32_t scale_kind;
  float scale;
  int32_t transform_order;
  const float* temperatures; /* each above 0 and finite; they are not looked at */
  int64_t temperature_count; /* 0 (all are 1), 1 (for all rows) or N */
  const int64_t* token_ids;  /* [N, ids_per_row]; NULL: none */
  int64_t ids_per_row;       /* 0 to 4096 */
  int64_t ignore_index;      /* its logprob is 0 */
  int32_t ignores_rows;      /* not 0: a row that has ids, and no other, is 0 in every output */
  float* logprobs;           /* [N, ids_per_row]; each of the results may be NULL */
  float* chosen_logits;      /* [N, ids_per_row], after all transforms; 0 for ignored ids */
  float* lse;                /* [N] */
  float* entropy;            /* [N] */
  float* sum_p2;             /* [N] */
  int64_t* argmax;           /* [N] */
  float* log_kept;           /* [N] */
  int64_t* rank;             /* [N, ids_per_row] */
  int64_t top_k;             /* 0 (none) to 1024 */
  int64_t* top_k_ids;        /* [N, top_k] */
  float* top_k_logprobs;
  const uint8_t* mask;     /* the support, as in isologit_score_request; it is not looked at */
  int64_t mask_row_stride; /* 0: one mask for all rows */
  isologit_id_lists kept;
  isologit_id_lists banned;
  double* summaries; /* [N, 5], what isologit_cuda_backward takes */
  /* [2]: how many numbers the kernels could not prove, which are NaN (one in 2^50 or fewer, and log_kept of a row whose
   * kept and dropped ids are alike but for their greatest; compute such a call by another kernel), and how many ids
   * were neither of the vocabulary nor ignore_index, whose results are NaN. */
  uint32_t* status;
  void* workspace;       /* at a multiple of 16 */
  size_t workspace_size; /* in bytes; at least isologit_cuda_score_workspace */
} isologit_cuda_score_request;

/* The bytes of workspace, of a request that lacks nothing else: at most 2^28 for H up to 65536, whatever the number of
 * rows. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_score_workspace(const isologit_cuda_score_request* request,
                                                                size_t* bytes, char* message, size_t message_size);

ISOLOGIT_CUDA_API isologit_status isologit_cuda_score(const isologit_cuda_score_request* request, char* message,
                                                      size_t message_size);

/* One token for each row, drawn from what isologit_cuda_score describes: CONTRACT.md 4. Of temperatures, seeds and the
 * rest up to top_p there is one number for all rows or one a row, as the count says; they lie in memory of the device
 * and are not looked at. A count of 0: none. */
typedef struct isologit_cuda_sample_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_matrix hidden; /* these as in isologit_cuda_score_request */
  isologit_matrix weight;
  isologit_vector bias;
  int64_t vocab_size;
  int32_t arithmetic;
  int32_t has_softcap;
  float softcap;
  int32_t scale_kind;
  float scale;
  int32_t transform_order;
  const float* temperatures; /* each finite and not below 0; 0 takes the greatest logit, of which nothing is cut */
  int64_t temperature_count; /* 0 (all are 1), 1 or N */
  const uint64_t* seeds;     /* the generator's key */
  int64_t seed_count;        /* 1 or N */
  const uint64_t* sequence_ids;
  int64_t sequence_id_count; /* 1 or N */
  const uint32_t* positions;
  int64_t position_count; /* 1 or N */
  const float* min_p;     /* 0 to 1; 0 cuts nothing */
  int64_t min_p_count;    /* 0 (no cut), 1 or N */
  const int64_t* top_k;   /* 0 cuts nothing */
  int64_t top_k_count;    /* 0 (no cut), 1 or N */
  const float* top_p;     /* above 0, up to 1, which cuts nothing */
  int64_t top_p_count;    /* 0 (no cut), 1 or N */
  const uint8_t* mask;    /* the support, as in isologit_cuda_score_request; the cuts come after it */
  int64_t mask_row_stride;
  isologit_id_lists kept;
  isologit_id_lists banned;
  int64_t* ids;        /* [N], and so are the next three; each may be NULL. -1: the support has no logit above -inf */
  float* logprobs;     /* over the support, at temperature 1 where the temperature is 0 */
  float* cut_logprobs; /* over what the cuts left */
  float* log_kept_cut; /* ln of the share of the support's mass that the cuts left */
  /* [2]: how many numbers, cuts and draws the kernels could not prove, one in 2^50 or fewer; where it is not 0 the
   * results are of no use. The second is 0. */
  uint32_t* status;
  void* workspace;       /* at a multiple of 16 */
  size_t workspace_size; /* in bytes; at least isologit_cuda_sample_workspace */
} isologit_cuda_sample_request;

/* The bytes of workspace, of a request that lacks nothing else: at most 2^28 for H up to 65536, whatever the number of
 * rows. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_sample_workspace(const isologit_cuda_sample_request* request,
                                                                 size_t* bytes, char* message, size_t message_size);

ISOLOGIT_CUDA_API isologit_status isologit_cuda_sample(const isologit_cuda_sample_request* request, char* message,
                                                       size_t message_size);

/* A matrix [rows, H] or, of dbias, a vector of gradients; data NULL: not wanted. */
typedef struct isologit_cuda_gradient {
  void* data;
  int64_t row_stride; /* in elements */
  int32_t dtype;
  int32_t accumulate; /* 1: added to what is there, and the sum rounded once; not of dbias */
} isologit_cuda_gradient;

/* `fast` gradients of scores, CONTRACT.md 5: dhidden of a weight, dweight of hidden states in bf16 within its bound,
 * 2^-16 of the sums it names, if the self-test of ISOLOGIT_FAST passes; of f16 and f32 within 2^-19. Of logits and
 * their derivatives [N, V] only a block is ever in memory. The bits do not depend on other rows (dhidden), nor on how
 * much is made at a time. Pointers to numbers of rows, the support's among them, are to memory of the device; rows of
 * dweight and dbias past vocab_size are not written. */
typedef struct isologit_cuda_backward_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_matrix hidden; /* these as in isologit_cuda_score_request */
  isologit_matrix weight;
  isologit_vector bias;
  int64_t vocab_size;
  int32_t arithmetic; /* of the logits: that of the forward pass */
  int32_t has_softcap;
  float softcap;
  int32_t scale_kind;
  float scale;
  int32_t transform_order;
  const float* temperatures;
  int64_t temperature_count;
  const int64_t* token_ids;
  int64_t ids_per_row;
  int64_t ignore_index;       /* rows that have ids and none but it have no gradient */
  const float* d_logprobs;    /* [N, ids_per_row], the upstream gradients; NULL: 0, and so are the next three */
  const float* d_lse;         /* [N] */
  const float* d_entropy;     /* [N] */
  const float* d_mean_logits; /* [N] */
  const uint8_t* mask;        /* the support, as in isologit_cuda_score_request; an id outside contributes 0 */
  int64_t mask_row_stride;
  isologit_id_lists kept;
  isologit_id_lists banned;
  const double* summaries;        /* [N, 5], what isologit_cuda_score left of the same; NULL: they are made */
  isologit_cuda_gradient dhidden; /* [N, H] */
  isologit_cuda_gradient dweight; /* [vocab_size, H] */
  isologit_cuda_gradient dbias;   /* [vocab_size] */
  /* [2]: how many derivatives of logits the kernels could not prove to 2^-20 of themselves, and how many ids were
   * neither of the vocabulary nor ignore_index. Where either is not 0 the gradients are of no use. */
  uint32_t* status;
  void* workspace;
  size_t workspace_size; /* at least isologit_cuda_backward_workspace */
} isologit_cuda_backward_request;

/* The bytes of workspace: at most 2^29 for H up to 65536, and 8 for each element of hidden. has_summaries: whether the
 * request has summaries. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_backward_workspace(int64_t rows, int64_t cols, int32_t dtype,
                                                                   int64_t vocab_size, int32_t has_summaries,
                                                                   size_t* bytes, char* message, size_t message_size);

ISOLOGIT_CUDA_API isologit_status isologit_cuda_backward(const isologit_cuda_backward_request* request, char* message,
                                                         size_t message_size);

/* Given logits: CONTRACT.md 3a. */
typedef struct isologit_cuda_given_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_matrix logits;    /* [N, V] */
  const float* temperatures; /* as in isologit_cuda_score_request */
  int64_t temperature_count;
  const int64_t* token_ids; /* [N, ids_per_row]; NULL: none */
  int64_t ids_per_row;      /* 0 to 4096 */
  int64_t ignore_index;     /* its logprob is 0; a row that has ids, and no other, is 0 in every output */
  float* logprobs;          /* [N, ids_per_row]; each of the results may be NULL */
  float* lse;               /* [N] */
  float* entropy;           /* [N] */
  float* log_softmax;       /* [N, V] */
  int64_t log_softmax_stride;
  uint32_t* status; /* as in isologit_cuda_score_request */
  void* workspace;  /* at a multiple of 16 */
  size_t workspace_size;
} isologit_cuda_given_request;

/* The bytes of workspace: at most 2^28, whatever the number of rows. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_given_workspace(int64_t rows, int64_t vocab_size, int64_t ids_per_row,
                                                                size_t* bytes, char* message, size_t message_size);

ISOLOGIT_CUDA_API isologit_status isologit_cuda_given(const isologit_cuda_given_request* request, char* message,
                                                      size_t message_size);

/* Operators of a forward pass: CONTRACT.md 10. Tensors are those of forward.h, with up to 2^20 elements a row and 2^31
 * - 1 rows, each 1024 elements beginning one being counted as a row; y is of the operand's type and shape, and may be
 * an operand itself in the same strides, but no other memory of one. They need no workspace, but attention. */
typedef struct isologit_cuda_rms_norm_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_tensor x;
  isologit_vector weight; /* [dim], or none */
  float epsilon;
  int32_t one_plus_weight;
  isologit_tensor_output y;
} isologit_cuda_rms_norm_request;

ISOLOGIT_CUDA_API isologit_status isologit_cuda_rms_norm(const isologit_cuda_rms_norm_request* request, char* message,
                                                         size_t message_size);

/* y = x + multiplier * a + b */
typedef struct isologit_cuda_residual_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_tensor x;
  isologit_tensor a;
  isologit_tensor b; /* data NULL: none */
  float multiplier;
  isologit_tensor_output y;
} isologit_cuda_residual_request;

ISOLOGIT_CUDA_API isologit_status isologit_cuda_residual(const isologit_cuda_residual_request* request, char* message,
                                                         size_t message_size);

typedef struct isologit_cuda_gate_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  int32_t kind; /* as in isologit_gate_request */
  isologit_tensor gate;
  isologit_tensor up; /* data NULL: none */
  float alpha;        /* of ISOLOGIT_CLAMPED_SWISH, like limit */
  float limit;
  isologit_tensor_output y;
  /* [2]: how many results the kernels could not prove, which are NaN (one in 2^60 or fewer); the second is 0. May be
   * NULL where there are none: of ISOLOGIT_RELU_SQUARED, and of ISOLOGIT_SILU and ISOLOGIT_GELU_TANH in bf16 and f16.
   */
  uint32_t* status;
} isologit_cuda_gate_request;

ISOLOGIT_CUDA_API isologit_status isologit_cuda_gate(const isologit_cuda_gate_request* request, char* message,
                                                     size_t message_size);

typedef struct isologit_cuda_rotary_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_tensor x;
  const int64_t* positions; /* [tokens], 0 to 2^31 - 1; like the frequencies in memory of the device */
  const float* frequencies; /* [frequency_count], 0 to 1 */
  int64_t frequency_count;
  int32_t layout; /* as in isologit_rotary_request */
  float factor;
  isologit_tensor_output y;
  /* [2]: how many results the kernels could not prove, which are NaN (one in 2^60 or fewer), and how many times a
   * position or frequency was met that is out of range. Where it is not 0 the results are of no use. */
  uint32_t* status;
} isologit_cuda_rotary_request;

ISOLOGIT_CUDA_API isologit_status isologit_cuda_rotary(const isologit_cuda_rotary_request* request, char* message,
                                                       size_t message_size);

/* Of bf16 and f16, q, keys and values of one type, heads of up to 256 elements; the members as in
 * isologit_attention_request. The lists and the block table are in memory of the device. y may overlap no operand. */
typedef struct isologit_cuda_attention_request {
  size_t struct_size;
  int32_t device;
  void* stream;
  isologit_tensor q;
  isologit_tensor keys;
  isologit_tensor values;
  int64_t sequences;
  const int64_t* query_starts;
  const int64_t* key_counts;
  const int64_t* first_keys;
  const int32_t* block_table;
  int64_t blocks_per_sequence;
  int64_t block_size;
  int64_t key_block_stride;
  int64_t value_block_stride;
  float scale;
  float softcap;
  int32_t not_causal;
  int64_t window;
  const float* sinks;
  isologit_tensor_output y;
  /* [2]: how many results the kernels could not prove, which are NaN (exact ties, and next to nothing else), and how
   * many times a number of the lists or of the block table was met that is out of range. Where it is not 0 the results
   * are of no use. */
  uint32_t* status;
  void* workspace; /* at a multiple of 16 */
  size_t workspace_size;
} isologit_cuda_attention_request;

/* The bytes of workspace, which may be 0: at most 2^24. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_attention_workspace(const isologit_cuda_attention_request* request,
                                                                    size_t* bytes, char* message, size_t message_size);

ISOLOGIT_CUDA_API isologit_status isologit_cuda_attention(const isologit_cuda_attention_request* request, char* message,
                                                          size_t message_size);

/* Computes on the device what the proofs of an arithmetic take for granted and waits for it: once for each device
 * before the arithmetic's first use, outside of captures. ISOLOGIT_UNSUPPORTED when it is not what they need. With
 * ISOLOGIT_CUDA_WGMMA what its kernels do, too. */
ISOLOGIT_CUDA_API isologit_status isologit_cuda_self_test(int32_t device, int32_t arithmetic, char* message,
                                                          size_t message_size);

#ifdef __cplusplus
}
#endif

#endif
