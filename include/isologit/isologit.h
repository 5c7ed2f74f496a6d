/* The C interface of isologit: C11, no types of C++, for programs in any language that can call C.
 *
 * Conventions
 * - Every function that can fail returns an isologit_status; ISOLOGIT_OK is 0. What went wrong is written to `message`,
 *   a buffer of `message_size` bytes owned by the caller, as text that ends with a zero byte and is cut to fit. It is
 *   empty after success. message may be NULL when message_size is 0.
 * - Nothing is allocated for the caller and nothing has to be freed, but for isologit_partial. Pointers stay the
 * caller's; the library reads what they point to while a call runs and keeps none of them, but for those of an
 * isologit_partial.
 * - A structure that may grow begins with its size, which the caller sets to sizeof the structure as it was compiled:
 *       isologit_score_request request = {.struct_size = sizeof request};
 *   Every other member may be left 0, which always means its default. A later version adds members only at the end, so
 *   programs and libraries of different versions fit: members that the program does not know count as 0; members that
 *   the library does not know must be 0, and are left alone in structures that the library fills.
 *   isologit_matrix, isologit_vector and isologit_lora lie inside others and never grow.
 * - Enumerations are stored as int32_t and have the values of those of the C++ interface. A value that is none of them
 *   is ISOLOGIT_INVALID_ARGUMENT.
 * - Any number of threads may call at once. No function aborts, prints, throws or changes the state of the process; the
 *   floating-point modes of the caller are neither used nor changed.
 *
 * What the results are is told by CONTRACT.md; what each member means, in more words, by the headers of the C++
 * interface: view.hpp, head.hpp, score.hpp, backward.hpp, given_logits.hpp, kernels.hpp. */
#ifndef ISOLOGIT_ISOLOGIT_H_
#define ISOLOGIT_ISOLOGIT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum isologit_status {
  ISOLOGIT_OK = 0,
  ISOLOGIT_INVALID_ARGUMENT = 1,
  ISOLOGIT_UNSUPPORTED = 2,
  ISOLOGIT_NOT_FOUND = 3,
  ISOLOGIT_IO_ERROR = 4,
  ISOLOGIT_OUT_OF_MEMORY = 5,
  ISOLOGIT_CANCELLED = 6
} isologit_status;

enum { ISOLOGIT_EXACT = 0, ISOLOGIT_FAST = 1 };                                           /* arithmetic */
enum { ISOLOGIT_BF16 = 0, ISOLOGIT_F16 = 1, ISOLOGIT_F32 = 2 };                           /* dtype */
enum { ISOLOGIT_SCALE_NONE = 0, ISOLOGIT_SCALE_MULTIPLY = 1, ISOLOGIT_SCALE_DIVIDE = 2 }; /* scale_kind */
enum { ISOLOGIT_SOFTCAP_FIRST = 0, ISOLOGIT_SCALE_FIRST = 1 };                            /* transform_order */
enum { ISOLOGIT_F64 = 1, ISOLOGIT_F8_E4M3 = 2, ISOLOGIT_F8_E5M2 = 3 };                    /* encoding; 0: none */
enum { ISOLOGIT_F8_REAL = 0, ISOLOGIT_F8_BF16 = 1 };                                      /* f8_product */

/* [rows, cols]; row r begins at element r * row_stride of data, its elements are adjacent. Need not be aligned. */
typedef struct isologit_matrix {
  const void* data;
  int64_t rows;
  int64_t cols;
  int64_t row_stride; /* in elements; may exceed cols, be 0 (a row that repeats) or negative */
  int32_t dtype;
} isologit_matrix;

/* Adjacent elements; data NULL and size 0: none. */
typedef struct isologit_vector {
  const void* data;
  int64_t size;
  int32_t dtype;
} isologit_vector;

/* A low-rank addition: the weight stands for weight + scale * b * a over the reals. */
typedef struct isologit_lora {
  isologit_matrix a; /* [r, H]; no rows: there is none */
  isologit_matrix b; /* [V, r], rows as the weight's */
  double scale;      /* finite; 0 is 0 */
} isologit_lora;

typedef struct isologit_head {
  size_t struct_size;
  isologit_matrix weight; /* [V, H] */
  isologit_vector bias;   /* [V], or none */
  int64_t vocab_size;     /* the real vocabulary, 1 to weight.rows; later rows are never read */
  int32_t has_softcap;    /* not 0: z becomes softcap * tanh(z / softcap) */
  float softcap;          /* above 0 and finite */
  int32_t scale_kind;
  float scale;             /* multiply: finite and not 0; divide: above 0 and finite */
  int32_t transform_order; /* which of softcap and scale comes first */

  /* A weight of another type: weight.data is NULL then, and weight has the shape and the row stride, in elements. One
   * of f8 is frozen: it has no dweight. Of f8, element (r, c) stands for its value times f8_scales(floor((f8_first_row
   * + r) / f8_block_rows), floor(c / f8_block_cols)), the real product or this rounded once to bf16. */
  const void* encoded;
  int32_t encoding;
  int32_t f8_product;
  isologit_matrix f8_scales; /* [row blocks, column blocks]; the last blocks may be partial */
  int64_t f8_block_rows;     /* 0: all rows */
  int64_t f8_block_cols;     /* 0: all columns */
  int64_t f8_first_row; /* of a part of a weight: the row of the whole that it begins with, as the scales count it */

  /* Added to the weight, whatever it is encoded in. */
  isologit_lora lora;
} isologit_head;

/* Lists of ids, one per row: those of row i are ids[offsets[i]] to ids[offsets[i + 1] - 1], ascending, each once.
 * offsets has N + 1 elements and begins with 0; NULL: no lists. */
typedef struct isologit_id_lists {
  const int64_t* offsets;
  const int64_t* ids;
} isologit_id_lists;

/* What a forward pass can leave to the backward one about a row: of its logits z, after temperature, over its support,
 * the greatest, and two sums over all others with proven bounds of their errors. The top is NaN where there is none: in
 * rows that were not computed or are special, hold their top more than once, or were too much for f64. */
typedef struct isologit_row_summary {
  double top;
  double mass; /* sum of e^(z - top) */
  double mass_error;
  double moment; /* sum of e^(z - top) (top - z) */
  double moment_error;
} isologit_row_summary;

typedef struct isologit_score_request {
  size_t struct_size;
  isologit_matrix hidden;    /* [N, H] */
  const int64_t* token_ids;  /* N ids from 0 to vocab_size - 1, or the id to ignore; NULL: none */
  const float* temperatures; /* each above 0 and finite */
  int64_t temperature_count; /* 0 (all are 1), 1 (for all rows) or N */
  int32_t has_ignore_index;  /* 0: the id to ignore is -100 */
  int64_t ignore_index;      /* rows with this id are not computed: 0 in every output */

  /* Where results go, N elements each; NULL: not computed. None may overlap another or an input. */
  float* logprobs; /* needs token_ids */
  float* lse;
  float* entropy;
  int64_t* argmax;
  int64_t* rank;       /* needs token_ids */
  float* raw_logprobs; /* over the whole vocabulary without temperature; needs token_ids */
  float* sum_p2;
  float* log_kept; /* ln of the share of the whole vocabulary's mass that the support keeps */

  const uint8_t* row_mask; /* N; rows with 0 are treated as ignored ones; NULL: all count */
  const int64_t* row_list; /* instead: ascending indices of the rows that count; NULL: row_mask decides */
  int64_t row_count;       /* of row_list */

  /* The support: ids of [first_id, last_id) that are kept and not banned, and that the mask leaves. has_range 0: the
   * whole vocabulary. */
  int32_t has_range;
  int64_t first_id;
  int64_t last_id;
  isologit_id_lists kept;
  isologit_id_lists banned;

  int64_t ids_per_row;   /* K */
  const int64_t* ids;    /* [N, K], or the id to ignore */
  float* ids_logprobs;   /* [N, K] */
  int64_t top_k;         /* k, 1 to 1024 */
  int64_t* top_k_ids;    /* [N, k] */
  float* top_k_logprobs; /* [N, k] */

  /* Logits of ids [logits_first_id, logits_first_id + logits_count), rounded once to logits_dtype; NULL: none. */
  void* logits;
  int32_t logits_dtype;
  int64_t logits_row_stride; /* in elements */
  int64_t logits_first_id;
  int64_t logits_count;

  isologit_row_summary* summaries; /* N, for isologit_backward_request */
  float* mean_logits;              /* N, the mean of the logits over the support */

  /* Of the support, too: bytes, not 0 where an id stays, those of row i from mask + i * mask_row_stride on. With a
   * stride of 0 all rows share one mask. NULL: all ids stay. */
  const uint8_t* mask;
  int64_t mask_row_stride;
} isologit_score_request;

/* A party of several that make the same call at the same time, each with its own rows of the weight
 * (isologit/peers.hpp): `head` has these rows, all else is of the whole vocabulary, and every party has all results. */
typedef struct isologit_peers {
  size_t struct_size;
  int64_t first_id;   /* of the party's rows; it may have none */
  int64_t vocab_size; /* of the whole head: together the parties have every id once */
  int32_t count;      /* of the parties */
  /* Called from the calling thread, equally often by every party: hands `size` bytes to the others. *all is to point to
   * the bytes of all parties, this one's among them, one after the other in any order, until the next call or the end;
   * sizes[i], of `count`, is how many the i-th has. Returning 0 fails the call with ISOLOGIT_CANCELLED. */
  int (*gather)(void* user, const void* bytes, size_t size, const void** all, size_t* sizes);
  void* user; /* handed to gather and scatter */
  /* Of backward, where each party wants dhidden of rows of its own alone, [first_row, last_row) of hidden; NULL: all
   * have all of it. Hands on `bytes`, sizes[i] of them to the party of number i, one after the other; the rest is as of
   * gather. Together the parties have every row once. */
  int (*scatter)(void* user, const void* bytes, const size_t* sizes, const void** all, size_t* all_sizes);
  int64_t first_row;
  int64_t last_row;
  int32_t party; /* this one's number, from 0 */
} isologit_peers;

typedef struct isologit_score_options {
  size_t struct_size;
  int32_t threads;    /* 0: as many as there are processors to run on, at most the control group's quota */
  const char* kernel; /* a name from isologit_kernel(); NULL or empty: ISOLOGIT_KERNEL if set, else the best */
  /* Called now and then, from one thread at a time, with the share done, 0 to 1. Returning 0
   * stops the call, which then returns ISOLOGIT_CANCELLED; anything else lets it go on. It is called in the
   * floating-point modes of the calling thread. NULL: not called. */
  int (*progress)(void* user, double share);
  void* user;         /* handed to progress */
  int32_t arithmetic; /* of the logits */
  /* The numbers of the processors to run on, the calling thread too while the call lasts; NULL and 0: those that the
   * calling thread may run on. */
  const int32_t* processors;
  int64_t processor_count;
  const isologit_peers* peers; /* NULL: the head has the whole vocabulary. Not for isologit_partial. */
} isologit_score_options;

typedef struct isologit_score_report {
  size_t struct_size;
  char kernel[32];
  int32_t threads;
  int32_t rounds;          /* passes over the weight */
  int64_t rows;            /* computed, so not ignored */
  int64_t logit_fallbacks; /* logits settled by exact accumulation */
  int64_t undecided_rows;  /* rows that took part in a further round at a wider precision */
  int32_t arithmetic;
  int32_t processors; /* how many the threads could run on */
} isologit_score_report;

/* Gradients. */

/* Where a gradient goes: rows of adjacent elements, row r at element r * row_stride of data; data NULL: not computed.
 */
typedef struct isologit_gradient {
  void* data;
  int64_t row_stride; /* in elements, at least those of a row; not used for dbias */
  int32_t dtype;
  int32_t accumulate; /* not 0: added to what data holds, with one rounding; 0: written over it */
} isologit_gradient;

typedef struct isologit_backward_request {
  size_t struct_size;
  isologit_matrix hidden;    /* [N, H] */
  const int64_t* token_ids;  /* [N, ids_per_row], or the id to ignore; NULL: none */
  int64_t ids_per_row;       /* 0: 1 */
  const float* temperatures; /* each above 0 and finite */
  int64_t temperature_count; /* 0 (all are 1), 1 (for all rows) or N */
  int32_t has_ignore_index;  /* 0: the id to ignore is -100 */
  int64_t ignore_index;      /* contributes nothing; nor does a row all of whose ids it is */

  /* The support of the forward pass, as in isologit_score_request. */
  int32_t has_range;
  int64_t first_id;
  int64_t last_id;
  isologit_id_lists kept;
  isologit_id_lists banned;

  /* Upstream gradients: of the results of isologit_score, NULL meaning 0, or of the last logits alone. */
  const float* d_logprobs; /* [N, ids_per_row]; needs token_ids */
  const float* d_lse;      /* N */
  const float* d_entropy;  /* N */
  const float* d_logits;   /* [N, vocab_size], row i at element i * d_logits_row_stride */
  int64_t d_logits_row_stride;

  isologit_gradient dhidden; /* [N, H] */
  isologit_gradient dweight; /* [vocab_size, H] */
  isologit_gradient dbias;   /* [vocab_size] */

  /* N, what isologit_score wrote for the same rows of the same operands and support; NULL: none. They save a pass over
   * the weight and change no bit. Where the logits are not those they were made of, the call fails as soon as it sees
   * that, or the gradients are of no use. */
  const isologit_row_summary* summaries;
  const float* d_mean_logits; /* N, as d_lse */
  const uint8_t* mask;        /* as in isologit_score_request */
  int64_t mask_row_stride;

  isologit_gradient dlora_a; /* [r, H], of the head's low-rank addition */
  isologit_gradient dlora_b; /* [vocab_size, r] */
} isologit_backward_request;

typedef struct isologit_backward_options {
  size_t struct_size;
  int32_t has_arithmetic;    /* 0: fast */
  int32_t arithmetic;        /* of the gradients */
  int32_t logits_arithmetic; /* what the forward pass made the logits with */
  /* These as in isologit_score_options. */
  int32_t threads;
  const char* kernel; /* that of the forward pass, where logits_arithmetic is fast */
  int (*progress)(void* user, double share);
  void* user;
  const int32_t* processors;
  int64_t processor_count;
  const isologit_peers* peers; /* as in isologit_score_options; not beside d_logits or d_log_softmax */
} isologit_backward_options;

typedef struct isologit_backward_report {
  size_t struct_size;
  char kernel[32];
  int32_t arithmetic; /* of the sums; the reference kernel is always exact */
  int32_t threads;
  int64_t rows;                 /* that contribute */
  int64_t logit_fallbacks;      /* logits settled by exact accumulation */
  int64_t derivative_fallbacks; /* derivatives of logits settled in multiple precision */
  int64_t sum_fallbacks;        /* elements of gradients settled by exact accumulation */
  int32_t processors;           /* how many the threads could run on */
} isologit_backward_report;

typedef struct isologit_kernel_info {
  size_t struct_size;
  char name[32];
  char instruction_set[64];
  char arithmetic[16]; /* "exact" or "fast" */
  char why_not[128];   /* what is missing when the kernel does not run here, else empty */
  uint32_t dtypes;     /* of hidden and weight: bit d is set when it takes dtype d */
  int32_t runnable;    /* on this machine */
  int32_t chosen;      /* would be taken for its arithmetic when no name is given */
} isologit_kernel_info;

/* "0.1.0" */
const char* isologit_version(void);

/* The GOMP_parallel of the OpenMP runtime that the program uses: calls then run on its threads, which otherwise spin
   after their own work and take processors away from the library's. NULL, as at first: on the library's own. Calls that
   ask for processors, and those in children of fork(), always run on the library's own. No result depends on it. */
typedef void (*isologit_openmp)(void (*work)(void*), void* data, unsigned threads, unsigned flags);
void isologit_use_openmp(isologit_openmp parallel);

/* options and report may be NULL. When it fails, output buffers may hold anything and the report is left alone. */
isologit_status isologit_score(const isologit_head* head, const isologit_score_request* request,
                               const isologit_score_options* options, isologit_score_report* report, char* message,
                               size_t message_size);

/* Gradients of hidden, weight, bias and a low-rank addition. options and report may be NULL. When it fails, output
 * buffers may hold anything and the report is left alone. */
isologit_status isologit_backward(const isologit_head* head, const isologit_backward_request* request,
                                  const isologit_backward_options* options, isologit_backward_report* report,
                                  char* message, size_t message_size);

/* *loss is minus the mean, or minus the sum, of the `count` logprobs, rounded once; only those count whose token id is
 * not ignore_index. token_ids NULL: all count. A mean of none is NaN, a sum of none 0. */
isologit_status isologit_mean_loss(const float* logprobs, int64_t count, const int64_t* token_ids, int64_t ignore_index,
                                   float* loss, char* message, size_t message_size);
isologit_status isologit_sum_loss(const float* logprobs, int64_t count, const int64_t* token_ids, int64_t ignore_index,
                                  float* loss, char* message, size_t message_size);

/* *upstream is the gradient of each of the n logprobs of a mean loss whose own is g: -g / n, rounded once. n >= 1. */
isologit_status isologit_mean_loss_upstream(float g, int64_t n, float* upstream, char* message, size_t message_size);

/* The kernels that are built in, best first; the reference is last. */
int isologit_kernel_count(void);

/* The kernel of that index, 0 to isologit_kernel_count() - 1. */
isologit_status isologit_kernel(int index, isologit_kernel_info* info);

/* Samples: one token for each row (isologit/sample.hpp). Of seeds, sequence_ids, positions, temperatures and the cuts
 * there is one value for all rows, or one a row, as the count says. */
typedef struct isologit_sample_request {
  size_t struct_size;
  isologit_matrix hidden;    /* [N, H] */
  const float* temperatures; /* each finite and not below 0; 0 takes the greatest logit */
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

  /* The support and the rows to draw for, as in isologit_score_request; the cuts come after the support. */
  int32_t has_range;
  int64_t first_id;
  int64_t last_id;
  isologit_id_lists kept;
  isologit_id_lists banned;
  const uint8_t* row_mask;
  const int64_t* row_list;
  int64_t row_count;

  /* Where results go, N elements each; NULL: not computed. None may overlap another or an input. */
  int64_t* ids;        /* -1 where the support has no logit above -inf */
  float* logprobs;     /* over the support, at temperature 1 where the temperature is 0 */
  float* cut_logprobs; /* over what the cuts left */
  float* log_kept_cut; /* ln of the share of the support's mass that the cuts left */

  const uint8_t* mask; /* as in isologit_score_request */
  int64_t mask_row_stride;
} isologit_sample_request;

typedef struct isologit_sample_report {
  size_t struct_size;
  char kernel[32];
  int32_t threads;
  int32_t rounds;          /* passes over the weight */
  int64_t rows;            /* drawn for */
  int64_t logit_fallbacks; /* logits settled by exact accumulation */
  int64_t further_rows;    /* rows that took part in a pass after the first */
  int64_t undecided_rows;  /* of these, rows that needed wider arithmetic than f64 */
  int64_t second_words;    /* tokens for which the first random word did not settle the draw */
  int64_t exact_draws;     /* rows whose draw needed wider arithmetic than f64 */
  int32_t arithmetic;
  int32_t processors; /* how many the threads could run on */
} isologit_sample_report;

/* options and report may be NULL. When it fails, output buffers may hold anything and the report is left alone. */
isologit_status isologit_sample(const isologit_head* head, const isologit_sample_request* request,
                                const isologit_score_options* options, isologit_sample_report* report, char* message,
                                size_t message_size);

/* A score of a vocabulary that is split, over blocks of weight in one process or over processes that exchange bytes
 * (isologit/partial.hpp): the same bits whatever the split. Every party begins with the same request. In each round it
 * absorbs its own shards, hands its state to the others, merges theirs in any order and finishes the round:
 *
 *     do {
 *       for (own shards) isologit_partial_absorb(...);
 *       isologit_partial_state(...);                        to be sent to the other parties
 *       for (states of the others) isologit_partial_merge(...);
 *       isologit_partial_finish_round(partial, &finished, ...);
 *     } while (!finished);
 *
 * All parties then agree on `finished`, and each has all results. There is one round, one more in front where rank is
 * asked for, and further ones only for rows that f64 could not decide. A party may hold no shard, or an empty one.
 *
 * One thread at a time may use a partial. After an error of absorb or finish_round it can only be ended; a refused
 * merge changes nothing. */
typedef struct isologit_partial isologit_partial;

/* *partial is a new one, to be ended by isologit_partial_end, or NULL after a failure. Of `whole`, the head before it
 * was split, the members vocab_size, weight.cols and the transforms count; weight.data may be NULL. What the request
 * points to must stay as it is until the end, and so must options->user: inputs and outputs, which must overlap neither
 * each other nor any shard. Of logits each party writes those of its own shards; all other outputs are those of the
 * whole vocabulary. options may be NULL. */
isologit_status isologit_partial_begin(const isologit_head* whole, const isologit_score_request* request,
                                       const isologit_score_options* options, isologit_partial** partial, char* message,
                                       size_t message_size);

/* The shard's rows are ids [first_id, first_id + shard->vocab_size) of the whole vocabulary; later rows of its weight
 * are padding and never read. vocab_size 0: it holds none. Its transforms must be those of the whole head. Its arrays
 * are used during the call only. */
isologit_status isologit_partial_absorb(isologit_partial* partial, const isologit_head* shard, int64_t first_id,
                                        char* message, size_t message_size);

/* Writes this round's state, the sums over the shards absorbed and the states merged so far, to `bytes`, and its size
 * to *size. bytes NULL and capacity 0: only the size. A capacity below it is ISOLOGIT_INVALID_ARGUMENT, and *size is
 * set all the same. It grows with the rows, the ids per row and top_k, not with the vocabulary. For processes of the
 * same version and byte order. bytes must not overlap what the request points to. */
isologit_status isologit_partial_state(isologit_partial* partial, void* bytes, size_t capacity, size_t* size,
                                       char* message, size_t message_size);

/* Bytes that are not a state of this round and request are refused (ISOLOGIT_INVALID_ARGUMENT), and so are those of
 * another kernel of fast arithmetic, whose logits have other bits. A party's own state must not be merged into it. */
isologit_status isologit_partial_merge(isologit_partial* partial, const void* bytes, size_t size, char* message,
                                       size_t message_size);

/* *finished is 1 when the outputs are written and no round is left, else 0. It is an error when the shards of all
 * parties did not hold the whole vocabulary. */
isologit_status isologit_partial_finish_round(isologit_partial* partial, int32_t* finished, char* message,
                                              size_t message_size);

/* What was done so far. Counts are those of this party alone. */
isologit_status isologit_partial_report(const isologit_partial* partial, isologit_score_report* report, char* message,
                                        size_t message_size);

/* NULL is fine. */
void isologit_partial_end(isologit_partial* partial);

/* Given logits (isologit/given_logits.hpp): results of logits that something else has made. */
typedef struct isologit_logits_request {
  size_t struct_size;
  isologit_matrix logits;    /* [N, V] */
  const float* temperatures; /* each above 0 and finite */
  int64_t temperature_count; /* 0 (all are 1), 1 (for all rows) or N */
  const int64_t* token_ids;  /* [N, ids_per_row], ids from 0 to V - 1, or the id to ignore; NULL: none */
  int64_t ids_per_row;       /* 0: 1 */
  int32_t has_ignore_index;  /* 0: the id to ignore is -100 */
  int64_t ignore_index;      /* its logprob is 0; a row that has no other id is 0 in every output */

  /* Where results go; NULL: not computed. None may overlap another or an input. */
  float* logprobs;    /* [N, ids_per_row]; needs token_ids */
  float* lse;         /* N */
  float* entropy;     /* N */
  float* log_softmax; /* [N, V], the logprob of every id; row i at element i * log_softmax_row_stride */
  int64_t log_softmax_row_stride;
} isologit_logits_request;

/* options and report may be NULL; of the options, arithmetic does not count. When it fails, output buffers may hold
 * anything and the report is left alone. */
isologit_status isologit_score_logits(const isologit_logits_request* request, const isologit_score_options* options,
                                      isologit_score_report* report, char* message, size_t message_size);

/* Draws from given logits: the members are those of isologit_sample_request; a support is made of logits of -inf. */
typedef struct isologit_logits_sample_request {
  size_t struct_size;
  isologit_matrix logits;    /* [N, V] */
  const float* temperatures; /* each finite and not below 0; counts are 1 (for all rows) or N, or 0 where said */
  int64_t temperature_count; /* or 0: all are 1 */
  const uint64_t* seeds;
  int64_t seed_count;
  const uint64_t* sequence_ids;
  int64_t sequence_id_count;
  const uint32_t* positions;
  int64_t position_count;
  const float* min_p;
  int64_t min_p_count; /* or 0 */
  const int64_t* top_k;
  int64_t top_k_count; /* or 0 */
  const float* top_p;
  int64_t top_p_count; /* or 0 */

  /* Where results go, N elements each; NULL: not computed. None may overlap another or an input. */
  int64_t* ids;        /* -1 where no logit is above -inf */
  float* logprobs;     /* over all logits, at temperature 1 where the temperature is 0 */
  float* cut_logprobs; /* over what the cuts left */
  float* log_kept_cut; /* ln of the share of the mass that the cuts left */
  uint8_t* cut_mask;   /* [N, V]: 1 for what the cuts left, 0 for the rest and for logits of -inf */
} isologit_logits_sample_request;

/* options and report may be NULL; of the options, arithmetic does not count. */
isologit_status isologit_sample_logits(const isologit_logits_sample_request* request,
                                       const isologit_score_options* options, isologit_sample_report* report,
                                       char* message, size_t message_size);

/* isologit_score and isologit_sample of a head whose logits the caller has made, on a device say: hidden of the request
 * is [N, W], the logits of the head's ids before any transform, W at least vocab_size and 1. The head says its
 * vocab_size and its transforms, and has no weight, bias or lora. There are no outputs of logits; of the options,
 * arithmetic does not count. */
isologit_status isologit_score_given(const isologit_head* head, const isologit_score_request* request,
                                     const isologit_score_options* options, isologit_score_report* report,
                                     char* message, size_t message_size);
isologit_status isologit_sample_given(const isologit_head* head, const isologit_sample_request* request,
                                      const isologit_score_options* options, isologit_sample_report* report,
                                      char* message, size_t message_size);

typedef struct isologit_logits_backward_request {
  size_t struct_size;
  /* As in the forward pass. */
  isologit_matrix logits;
  const float* temperatures;
  int64_t temperature_count;
  const int64_t* token_ids;
  int64_t ids_per_row;
  int32_t has_ignore_index;
  int64_t ignore_index;

  /* Upstream gradients: of logprobs, lse and entropy, NULL meaning 0, or of log_softmax alone. */
  const float* d_logprobs;    /* [N, ids_per_row]; needs token_ids */
  const float* d_lse;         /* N */
  const float* d_entropy;     /* N */
  const float* d_log_softmax; /* [N, V], row i at element i * d_log_softmax_row_stride */
  int64_t d_log_softmax_row_stride;

  float* dlogits; /* [N, V], row i at element i * dlogits_row_stride: each rounded once */
  int64_t dlogits_row_stride;
} isologit_logits_backward_request;

/* The gradient of given logits. options and report may be NULL; of the options, the arithmetics do not count. */
isologit_status isologit_backward_logits(const isologit_logits_backward_request* request,
                                         const isologit_backward_options* options, isologit_backward_report* report,
                                         char* message, size_t message_size);

#ifdef __cplusplus
}
#endif

#endif
