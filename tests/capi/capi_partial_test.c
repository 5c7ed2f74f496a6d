/* Split vocabularies of the C interface from C11: the same numbers, known by hand, whatever the split. */
#include <stdlib.h>
#include <string.h>

#include "small_head.h"

static const int64_t kIds[kRows] = {1, 3};

/* As in capi_test.c: ln 4, ln(1 + e + e^2 + e^3), the last logprob's negative; the rest from 50-digit values too. */
static const float kLnFour = 1.38629436111989061883446424291635313615100026872051F;
static const float kLse = 3.44018969856119533049272230132616007334961314847871F;
static const float kLogprob = 0.44018969856119533049272230132616007334961314847871F;
static const float kEntropy = 0.9475369639754255631221047768995302085717F;

enum { kParties = 5 };

typedef struct results {
  float logprobs[kRows], lse[kRows], entropy[kRows], top_k_logprobs[kRows * 2];
  int64_t argmax[kRows], rank[kRows], top_k_ids[kRows * 2];
} results;

typedef struct bytes {
  unsigned char* data;
  size_t size;
} bytes;

static isologit_score_request make_request(results* to) {
  isologit_score_request request = {.struct_size = sizeof request};
  request.hidden = (isologit_matrix){.data = kStates, .rows = kRows, .cols = kHidden, .row_stride = kHidden};
  request.hidden.dtype = ISOLOGIT_BF16;
  request.token_ids = kIds;
  request.logprobs = to->logprobs;
  request.lse = to->lse;
  request.entropy = to->entropy;
  request.argmax = to->argmax;
  request.rank = to->rank;
  request.top_k = 2;
  request.top_k_ids = to->top_k_ids;
  request.top_k_logprobs = to->top_k_logprobs;
  return request;
}

static void expect_by_hand(const results* got) {
  CHECK(got->lse[0] == kLnFour && got->logprobs[0] == -kLnFour && got->entropy[0] == kLnFour);
  CHECK(got->argmax[0] == 0 && got->rank[0] == 2);
  CHECK(got->lse[1] == kLse && got->logprobs[1] == -kLogprob && got->entropy[1] == kEntropy);
  CHECK(got->argmax[1] == 3 && got->rank[1] == 1);
  CHECK(got->top_k_ids[0] == 0 && got->top_k_ids[1] == 1 && got->top_k_ids[2] == 3 && got->top_k_ids[3] == 2);
  CHECK(got->top_k_logprobs[0] == -kLnFour && got->top_k_logprobs[2] == -kLogprob);
}

/* The head before the split, without its weight. */
static isologit_head make_whole(void) {
  isologit_head whole = make_head();
  whole.weight.data = NULL;
  whole.weight.rows = 0;
  return whole;
}

static isologit_partial* begin(results* to, const isologit_score_options* options) {
  const isologit_head whole = make_whole();
  const isologit_score_request request = make_request(to);
  isologit_partial* partial = NULL;
  char message[256] = "not empty";
  CHECK(isologit_partial_begin(&whole, &request, options, &partial, message, sizeof message) == ISOLOGIT_OK);
  CHECK(partial != NULL && message[0] == '\0');
  return partial;
}

static isologit_head make_shard(int64_t first_id, int64_t count) {
  isologit_head shard = make_head();
  shard.weight.data = kWeight + first_id * kHidden;
  shard.weight.rows = kVocab - first_id; /* what lies past `count` is none of its own */
  shard.vocab_size = count;
  return shard;
}

static void absorb(isologit_partial* partial, int64_t first_id, int64_t count) {
  const isologit_head shard = make_shard(first_id, count);
  char message[256];
  CHECK(isologit_partial_absorb(partial, &shard, first_id, message, sizeof message) == ISOLOGIT_OK);
}

static bytes state_of(isologit_partial* partial) {
  bytes state = {NULL, 0};
  char message[256];
  CHECK(isologit_partial_state(partial, NULL, 0, &state.size, NULL, 0) == ISOLOGIT_OK && state.size > 0);
  state.data = malloc(state.size);
  size_t size = 0;
  CHECK(isologit_partial_state(partial, state.data, state.size - 1, &size, message, sizeof message) ==
        ISOLOGIT_INVALID_ARGUMENT);
  CHECK(size == state.size && strstr(message, "capacity") != NULL);
  CHECK(isologit_partial_state(partial, state.data, state.size, &size, NULL, 0) == ISOLOGIT_OK && size == state.size);
  return state;
}

/* Shards of 0, 3, 0 and 1 ids, the second 0 being rows of padding, and a party without a shard. */
static void parties_exchange_states(void) {
  const int64_t first_ids[kParties - 1] = {0, 0, 3, 3};
  const int64_t counts[kParties - 1] = {0, 3, 0, 1};
  results got[kParties];
  isologit_partial* parties[kParties];
  memset(got, 0, sizeof got);
  for (int p = 0; p < kParties; ++p) parties[p] = begin(&got[p], NULL);
  int32_t finished = 0;
  int rounds = 0;
  for (; !finished && rounds < 10; ++rounds) {
    bytes states[kParties];
    for (int p = 0; p < kParties; ++p) {
      if (p == 1) free(state_of(parties[p]).data); /* which is another one by the next line */
      if (p < kParties - 1) absorb(parties[p], first_ids[p], counts[p]);
      states[p] = state_of(parties[p]);
    }
    for (int p = 0; p < kParties; ++p) {
      for (int i = 1; i < kParties; ++i) {
        const bytes* other = &states[p % 2 == 0 ? (p + i) % kParties : (p + kParties - i) % kParties];
        CHECK(isologit_partial_merge(parties[p], other->data, other->size, NULL, 0) == ISOLOGIT_OK);
      }
    }
    for (int p = 0; p < kParties; ++p) {
      int32_t of_party = -1;
      CHECK(isologit_partial_finish_round(parties[p], &of_party, NULL, 0) == ISOLOGIT_OK);
      CHECK(p == 0 || of_party == finished);
      finished = of_party;
      free(states[p].data);
    }
  }
  CHECK(finished == 1 && rounds == 2); /* one in front for rank */
  for (int p = 0; p < kParties; ++p) {
    expect_by_hand(&got[p]);
    isologit_score_report report = {.struct_size = sizeof report};
    CHECK(isologit_partial_report(parties[p], &report, NULL, 0) == ISOLOGIT_OK);
    CHECK(report.rows == kRows && report.kernel[0] != '\0' && report.arithmetic == ISOLOGIT_EXACT);
    isologit_partial_end(parties[p]);
  }
  isologit_partial_end(NULL);
}

static isologit_partial* begin_with(results* to, const char* kernel, int32_t arithmetic) {
  isologit_score_options options = {.struct_size = sizeof options, .kernel = kernel, .arithmetic = arithmetic};
  return begin(to, &options);
}

/* Fast logits are a kernel's own, so states of others are refused; exact ones are everybody's. */
static void refuses_states_of_other_kernels(void) {
  results got;
  isologit_partial* fast = begin_with(&got, "portable_fast", ISOLOGIT_FAST);
  isologit_partial* exact = begin_with(&got, "portable", ISOLOGIT_EXACT);
  isologit_partial* reference = begin_with(&got, "reference", ISOLOGIT_EXACT);
  isologit_partial* again = begin_with(&got, "portable_fast", ISOLOGIT_FAST);
  bytes of_fast = state_of(fast), of_exact = state_of(exact);
  char message[256];
  CHECK(isologit_partial_merge(exact, of_fast.data, of_fast.size, message, sizeof message) ==
        ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "another arithmetic") != NULL);
  CHECK(isologit_partial_merge(fast, of_exact.data, of_exact.size, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_merge(reference, of_exact.data, of_exact.size, NULL, 0) == ISOLOGIT_OK);
  CHECK(isologit_partial_merge(again, of_fast.data, of_fast.size, NULL, 0) == ISOLOGIT_OK);
  int others = 0;
  for (int i = 0; i < isologit_kernel_count(); ++i) {
    isologit_kernel_info info = {.struct_size = sizeof info};
    CHECK(isologit_kernel(i, &info) == ISOLOGIT_OK);
    if (!info.runnable || strcmp(info.arithmetic, "fast") != 0 || strcmp(info.name, "portable_fast") == 0) continue;
    isologit_partial* other = begin_with(&got, info.name, ISOLOGIT_FAST);
    CHECK(isologit_partial_merge(other, of_fast.data, of_fast.size, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
    isologit_partial_end(other);
    ++others;
  }
  printf("%d kernels of fast arithmetic beside portable_fast\n", others);
  free(of_fast.data);
  free(of_exact.data);
  isologit_partial_end(fast);
  isologit_partial_end(exact);
  isologit_partial_end(reference);
  isologit_partial_end(again);
}

static void refuses_what_is_wrong(void) {
  results got;
  char message[256];
  size_t size = 0;
  int32_t finished = -1;
  const isologit_head whole = make_whole();
  isologit_score_request request = make_request(&got);
  isologit_partial* none = (isologit_partial*)&got;
  request.top_k = 2000;
  CHECK(isologit_partial_begin(&whole, &request, NULL, &none, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(none == NULL && strstr(message, "top_k") != NULL);
  CHECK(isologit_partial_begin(&whole, &request, NULL, NULL, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_begin(NULL, &request, NULL, &none, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_absorb(NULL, &whole, 0, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_state(NULL, NULL, 0, &size, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_merge(NULL, NULL, 0, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_finish_round(NULL, &finished, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_report(NULL, NULL, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);

  isologit_partial* partial = begin(&got, NULL);
  CHECK(isologit_partial_state(partial, NULL, 0, NULL, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_state(partial, NULL, 8, &size, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_merge(partial, NULL, 8, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_merge(partial, "not a state", 11, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "not a state") != NULL);
  CHECK(isologit_partial_finish_round(partial, NULL, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_partial_report(partial, NULL, NULL, 0) == ISOLOGIT_INVALID_ARGUMENT);
  isologit_head shard = make_shard(2, 2);
  CHECK(isologit_partial_absorb(partial, &shard, 3, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "2 ids from 3 on; expected ids of the vocabulary [0, 4)") != NULL);
  shard.has_softcap = 1;
  shard.softcap = 2;
  CHECK(isologit_partial_absorb(partial, &shard, 2, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "transforms differ") != NULL);
  isologit_partial_end(partial);

  partial = begin(&got, NULL);
  absorb(partial, 2, 2);
  CHECK(isologit_partial_finish_round(partial, &finished, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "no shard held id 1 of row 0") != NULL && finished == -1);
  isologit_partial_end(partial);
}

int main(void) {
  parties_exchange_states();
  refuses_states_of_other_kernels();
  refuses_what_is_wrong();
  return failures != 0;
}
