/* isologit_score_logits, isologit_sample_logits, isologit_backward_logits, isologit_score_given and
 * isologit_sample_given from C11: results small enough to know by hand. */
#include <string.h>

#include "small_head.h"

/* Rounded once to f32, from 50-digit values: ln 4, ln 2, ln(1 + e + e^2 + e^3), that less 3, and the entropy there. */
static const float kLnFour = 1.38629436111989061883446424291635313615100026872051F;
static const float kLnTwo = 0.69314718055994530941723212145817656807550013436026F;
static const float kLse = 3.44018969856119533049272230132616007334961314847871F;
static const float kFirst = 0.44018969856119533049272230132616007334961314847871F;
static const float kEntropy = 0.94753696397542556312210477689953020857169991105572F;

/* 0, 0, 0, 0, and 0, 1, 2, 3 in bf16, with an element between the rows. */
static const uint16_t kLogits[9] = {0, 0, 0, 0, 0xFFFF, 0, 0x3F80, 0x4000, 0x4040};

static isologit_matrix logits(void) {
  isologit_matrix matrix = {.data = kLogits, .rows = kRows, .cols = kVocab, .row_stride = 5};
  matrix.dtype = ISOLOGIT_BF16;
  return matrix;
}

static void results_by_hand(void) {
  const int64_t ids[kRows] = {2, 3};
  float logprobs[kRows];
  float lse[kRows];
  float entropy[kRows];
  float all[kRows][kVocab + 1];
  all[0][kVocab] = 7;
  char message[64] = "not empty";
  isologit_logits_request request = {.struct_size = sizeof request, .logits = logits()};
  request.token_ids = ids;
  request.logprobs = logprobs;
  request.lse = lse;
  request.entropy = entropy;
  request.log_softmax = &all[0][0];
  request.log_softmax_row_stride = kVocab + 1;
  isologit_score_report report = {.struct_size = sizeof report};
  CHECK(isologit_score_logits(&request, NULL, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(message[0] == '\0');
  CHECK(logprobs[0] == -kLnFour && lse[0] == kLnFour && entropy[0] == kLnFour);
  CHECK(logprobs[1] == -kFirst && lse[1] == kLse && entropy[1] == kEntropy);
  for (int v = 0; v < kVocab; ++v) CHECK(all[0][v] == -kLnFour);
  CHECK(all[1][0] == -kLse && all[1][3] == -kFirst && all[0][kVocab] == 7);
  CHECK(report.rows == kRows && report.threads >= 1 && report.kernel[0] != '\0');

  /* At temperature 2 the last two logits of 0, 2, 4 and 6 are those of before. */
  const float temperature = 2;
  const float doubled[kVocab] = {0, 2, 4, 6};
  request.logits = (isologit_matrix){.data = doubled, .rows = 1, .cols = kVocab, .row_stride = kVocab};
  request.logits.dtype = ISOLOGIT_F32;
  request.temperatures = &temperature;
  request.temperature_count = 1;
  CHECK(isologit_score_logits(&request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(all[0][0] == -kLse && all[0][3] == -kFirst);
}

static void ids_in_plenty_and_ignored(void) {
  const int64_t ids[kRows * 2] = {1, -7, -7, -7};
  float logprobs[kRows * 2];
  float lse[kRows];
  isologit_logits_request request = {.struct_size = sizeof request, .logits = logits()};
  request.token_ids = ids;
  request.ids_per_row = 2;
  request.has_ignore_index = 1;
  request.ignore_index = -7;
  request.logprobs = logprobs;
  request.lse = lse;
  CHECK(isologit_score_logits(&request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(logprobs[0] == -kLnFour && logprobs[1] == 0 && logprobs[2] == 0 && logprobs[3] == 0);
  CHECK(lse[0] == kLnFour && lse[1] == 0);
}

/* Seed, sequence and position 0: the words of ids 0 to 3 are 6627e8d5 e169c58d bc57ac4c 9b00dbd8, see
 * capi_sample_test.c. */
static void draws_by_hand(void) {
  static const uint64_t zero64 = 0;
  static const uint32_t zero32 = 0;
  const float temperatures[kRows] = {1, 0};
  const float top_p = 0.5F;
  int64_t ids[kRows];
  float logprobs[kRows];
  float cut_logprobs[kRows];
  float log_kept_cut[kRows];
  uint8_t cut_mask[kRows][kVocab];
  char message[128];
  isologit_logits_sample_request request = {.struct_size = sizeof request, .logits = logits()};
  request.temperatures = temperatures;
  request.temperature_count = kRows;
  request.seeds = request.sequence_ids = &zero64;
  request.positions = &zero32;
  request.seed_count = request.sequence_id_count = request.position_count = 1;
  request.top_p = &top_p;
  request.top_p_count = 1;
  request.ids = ids;
  request.logprobs = logprobs;
  request.cut_logprobs = cut_logprobs;
  request.log_kept_cut = log_kept_cut;
  request.cut_mask = &cut_mask[0][0];
  isologit_sample_report report = {.struct_size = sizeof report};
  CHECK(isologit_sample_logits(&request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 1 && logprobs[0] == -kLnFour && cut_logprobs[0] == -kLnTwo && log_kept_cut[0] == -kLnTwo);
  CHECK(ids[1] == 3 && logprobs[1] == -kFirst && cut_logprobs[1] == -kFirst && log_kept_cut[1] == 0);
  for (int v = 0; v < kVocab; ++v) CHECK(cut_mask[0][v] == (v < 2) && cut_mask[1][v] == 1);
  CHECK(report.rows == kRows && report.kernel[0] != '\0' && report.arithmetic == ISOLOGIT_EXACT);
  request.seed_count = 0;
  CHECK(isologit_sample_logits(&request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "seeds: 0 for 2 rows") != NULL);
  CHECK(isologit_sample_logits(NULL, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
}

static void gradients_by_hand(void) {
  const int64_t ids[kRows] = {2, -100};
  const float d_logprobs[kRows] = {1, 5};
  float dlogits[kRows][kVocab];
  isologit_logits_backward_request request = {.struct_size = sizeof request, .logits = logits()};
  request.token_ids = ids;
  request.d_logprobs = d_logprobs;
  request.dlogits = &dlogits[0][0];
  request.dlogits_row_stride = kVocab;
  isologit_backward_report report = {.struct_size = sizeof report};
  CHECK(isologit_backward_logits(&request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(dlogits[0][0] == -0.25F && dlogits[0][1] == -0.25F && dlogits[0][2] == 0.75F && dlogits[0][3] == -0.25F);
  for (int v = 0; v < kVocab; ++v) CHECK(dlogits[1][v] == 0);
  CHECK(report.rows == 1 && report.arithmetic == ISOLOGIT_EXACT);

  const float dense[kRows][kVocab] = {{1, 2, 3, 4}, {0, 0, 0, 0}};
  request.token_ids = NULL;
  request.d_logprobs = NULL;
  request.d_log_softmax = &dense[0][0];
  request.d_log_softmax_row_stride = kVocab;
  CHECK(isologit_backward_logits(&request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(dlogits[0][0] == -1.5F && dlogits[0][1] == -0.5F && dlogits[0][2] == 0.5F && dlogits[0][3] == 1.5F);
  for (int v = 0; v < kVocab; ++v) CHECK(dlogits[1][v] == 0);
}

/* Heads of these logits: scores of an id, a draw of the greatest, at most the first three ids. */
static void heads_by_hand(void) {
  const int64_t ids[kRows] = {2, 3};
  float logprobs[kRows];
  int64_t rank[kRows];
  float lse[kRows];
  char message[160] = "not empty";
  isologit_head head = {.struct_size = sizeof head, .vocab_size = kVocab};
  isologit_score_request request = {.struct_size = sizeof request, .hidden = logits(), .token_ids = ids};
  request.logprobs = logprobs;
  request.rank = rank;
  request.lse = lse;
  isologit_score_report report = {.struct_size = sizeof report};
  CHECK(isologit_score_given(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(message[0] == '\0');
  CHECK(logprobs[0] == -kLnFour && lse[0] == kLnFour && rank[0] == 3);
  CHECK(logprobs[1] == -kFirst && lse[1] == kLse && rank[1] == 1);
  CHECK(report.rows == kRows && report.kernel[0] != '\0' && strcmp(report.kernel, "given") != 0);

  static const uint64_t zero64 = 0;
  static const uint32_t zero32 = 0;
  const float temperature = 0;
  int64_t drawn[kRows];
  isologit_sample_request draws = {.struct_size = sizeof draws, .hidden = logits()};
  draws.temperatures = &temperature;
  draws.temperature_count = 1;
  draws.seeds = draws.sequence_ids = &zero64;
  draws.positions = &zero32;
  draws.seed_count = draws.sequence_id_count = draws.position_count = 1;
  draws.ids = drawn;
  CHECK(isologit_sample_given(&head, &draws, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(drawn[0] == 0 && drawn[1] == 3);
  head.vocab_size = 3;
  CHECK(isologit_sample_given(&head, &draws, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(drawn[0] == 0 && drawn[1] == 2);

  head.weight = logits();
  CHECK(isologit_score_given(&head, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "weight: given") != NULL);
  CHECK(isologit_sample_given(&head, &draws, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "weight: given") != NULL);
}

static void refuses(const isologit_logits_request* request, const char* expected) {
  char message[256] = "";
  CHECK(isologit_score_logits(request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  if (strstr(message, expected) == NULL) fprintf(stderr, "\"%s\" is not in \"%s\"\n", expected, message);
  CHECK(strstr(message, expected) != NULL);
}

static void wrong_calls(void) {
  float lse[kRows];
  isologit_logits_request good = {.struct_size = sizeof good, .logits = logits(), .lse = lse};
  refuses(NULL, "request: NULL");
  isologit_logits_request bad = good;
  bad.struct_size = 8;
  refuses(&bad, "struct_size is 8");
  bad = good;
  bad.logits.dtype = 5;
  refuses(&bad, "logits: dtype is 5");
  bad = good;
  bad.temperature_count = 1;
  refuses(&bad, "temperatures: temperature_count is 1");
  bad = good;
  bad.ids_per_row = -1;
  refuses(&bad, "ids_per_row: -1");
  bad = good;
  bad.logprobs = lse;
  refuses(&bad, "token_ids: none given");
  char message[256];
  CHECK(isologit_backward_logits(NULL, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  isologit_logits_backward_request backward = {.struct_size = sizeof backward, .logits = logits(), .d_lse = lse};
  CHECK(isologit_backward_logits(&backward, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "dlogits: null") != NULL);
}

int main(void) {
  results_by_hand();
  ids_in_plenty_and_ignored();
  draws_by_hand();
  heads_by_hand();
  gradients_by_hand();
  wrong_calls();
  return failures == 0 ? 0 : 1;
}
