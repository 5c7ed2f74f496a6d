/* A head small enough to know its results by hand, and how its tests fail. */
#ifndef ISOLOGIT_TESTS_CAPI_SMALL_HEAD_H_
#define ISOLOGIT_TESTS_CAPI_SMALL_HEAD_H_

#include <isologit/isologit.h>
#include <stdio.h>

static int failures = 0;

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                     \
    }                                                                 \
  } while (0)

/* Two rows of hidden states over a vocabulary of 4, in bf16: the first makes all logits 0, the second 0, 1, 2 and 3. */
enum { kRows = 2, kHidden = 2, kVocab = 4 };
static const uint16_t kWeight[kVocab * kHidden] = {0x0000, 0x3F80,  /* 0, 1 */
                                                   0x3F80, 0x3F80,  /* 1, 1 */
                                                   0x4000, 0x3F80,  /* 2, 1 */
                                                   0x4040, 0x3F80}; /* 3, 1 */
static const uint16_t kStates[kRows * kHidden] = {0x0000, 0x0000,   /* 0, 0 */
                                                  0x3F80, 0x0000};  /* 1, 0 */

static inline isologit_head make_head(void) {
  isologit_head head = {.struct_size = sizeof head};
  head.weight = (isologit_matrix){.data = kWeight, .rows = kVocab, .cols = kHidden, .row_stride = kHidden};
  head.weight.dtype = ISOLOGIT_BF16;
  head.vocab_size = kVocab;
  return head;
}

#endif
