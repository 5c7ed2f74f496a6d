/* The C interface from C11: a head small enough to know its results by hand, and every way to ask wrongly. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "small_head.h"

static const int64_t kIds[kRows] = {1, 3};

/* Rounded once to f32, from 50-digit values:
 * ln 4 = 1.3862943611198906..., and ln(1 + e + e^2 + e^3) = 3.4401896985611953... */
static const float kLnFour = 1.38629436111989061883446424291635313615100026872051F;
static const float kLse = 3.44018969856119533049272230132616007334961314847871F;
static const float kLogprob = 0.44018969856119533049272230132616007334961314847871F;
/* ln 2, ln(1 + e) and ln(1 + 1 / e). */
static const float kLnTwo = 0.69314718055994530941723212145817656807550013436026F;
static const float kLnFirst = 1.31326168751822283404899549496785564191528008567035F;
static const float kLnLast = 0.31326168751822283404899549496785564191528008567035F;

static isologit_score_request make_request(float* logprobs) {
  isologit_score_request request = {.struct_size = sizeof request};
  request.hidden = (isologit_matrix){.data = kStates, .rows = kRows, .cols = kHidden, .row_stride = kHidden};
  request.hidden.dtype = ISOLOGIT_BF16;
  request.token_ids = kIds;
  request.logprobs = logprobs;
  return request;
}

static void scores_by_hand(void) {
  float logprobs[kRows];
  float lse[kRows];
  float entropy[kRows];
  int64_t argmax[kRows];
  int64_t rank[kRows];
  char message[64] = "not empty";
  const isologit_head head = make_head();
  isologit_score_request request = make_request(logprobs);
  request.lse = lse;
  request.entropy = entropy;
  request.argmax = argmax;
  request.rank = rank;
  isologit_score_report report = {.struct_size = sizeof report};
  CHECK(isologit_score(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(message[0] == '\0');
  CHECK(lse[0] == kLnFour && logprobs[0] == -kLnFour && entropy[0] == kLnFour);
  CHECK(argmax[0] == 0 && rank[0] == 2); /* equal logits are in the order of their ids */
  CHECK(lse[1] == kLse && logprobs[1] == -kLogprob);
  CHECK(argmax[1] == 3 && rank[1] == 1);
  CHECK(report.rows == kRows && report.rounds >= 1 && report.threads >= 1 && report.kernel[0] != '\0');
  CHECK(report.struct_size == sizeof report);
}

/* The same head in f64, and in E4M3 of halves with scales of 2. */
static void scores_of_encoded_weights(void) {
  const double numbers[kVocab * kHidden] = {0, 1, 1, 1, 2, 1, 3, 1};
  const uint8_t halves[kVocab * kHidden] = {0x00, 0x30, 0x30, 0x30, 0x38, 0x30, 0x3C, 0x30};
  const float two = 2;
  for (int f8 = 0; f8 < 2; ++f8) {
    float logprobs[kRows];
    char message[200] = "";
    isologit_head head = make_head();
    isologit_score_request request = make_request(logprobs);
    head.weight.data = NULL;
    head.encoded = f8 != 0 ? (const void*)halves : (const void*)numbers;
    head.encoding = f8 != 0 ? ISOLOGIT_F8_E4M3 : ISOLOGIT_F64;
    if (f8 != 0) {
      CHECK(isologit_score(&head, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
      CHECK(strstr(message, "f8_scales: none") != NULL);
      head.f8_scales = (isologit_matrix){.data = &two, .rows = 1, .cols = 1, .row_stride = 1, .dtype = ISOLOGIT_F32};
    }
    CHECK(isologit_score(&head, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
    CHECK(logprobs[0] == -kLnFour && logprobs[1] == -kLogprob);
  }
}

/* The second row's logits are 0, 1, 2 and 3; over ids 1 to 3 less 2, they are 1 and 3. */
static void scores_over_a_support(void) {
  const int64_t kept_offsets[kRows + 1] = {0, 2, 5};
  const int64_t kept[] = {1, 2, 0, 1, 3};
  const int64_t banned_offsets[kRows + 1] = {0, 0, 1};
  const int64_t banned[] = {0};
  const int64_t more_ids[kRows * 2] = {2, -100, 1, 0};
  const float two = 2;
  float logprobs[kRows], raw[kRows], sum_p2[kRows], log_kept[kRows], mean[kRows], more[kRows * 2], top[kRows * 3];
  int64_t top_ids[kRows * 3], argmax[kRows], rank[kRows];
  uint16_t logits[kRows * 4];
  const isologit_head head = make_head();
  isologit_score_request request = make_request(logprobs);
  request.temperatures = &two;
  request.temperature_count = 1;
  request.has_range = 1;
  request.first_id = 0;
  request.last_id = 4;
  request.kept = (isologit_id_lists){kept_offsets, kept};
  request.banned = (isologit_id_lists){banned_offsets, banned};
  request.raw_logprobs = raw;
  request.sum_p2 = sum_p2;
  request.log_kept = log_kept;
  request.mean_logits = mean;
  request.argmax = argmax;
  request.rank = rank;
  request.ids_per_row = 2;
  request.ids = more_ids;
  request.ids_logprobs = more;
  request.top_k = 3;
  request.top_k_ids = top_ids;
  request.top_k_logprobs = top;
  request.logits = logits;
  request.logits_dtype = ISOLOGIT_BF16;
  request.logits_row_stride = 4;
  request.logits_first_id = 1;
  request.logits_count = 3;
  memset(logits, 0xFF, sizeof logits);
  CHECK(isologit_score(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  /* ids 1 and 2 of four equal ones; then logits 1/2 and 3/2 of ids 1 and 3 */
  CHECK(logprobs[0] == -kLnTwo && log_kept[0] == -kLnTwo && sum_p2[0] == 0.5F && raw[0] == -kLnFour);
  CHECK(argmax[0] == 1 && rank[0] == 1 && more[0] == -kLnTwo && more[1] == 0);
  CHECK(top_ids[0] == 1 && top_ids[1] == 2 && top_ids[2] == -1 && top[1] == -kLnTwo && top[2] == -INFINITY);
  CHECK(logprobs[1] == -kLnLast && raw[1] == -kLogprob && argmax[1] == 3 && rank[1] == 1);
  CHECK(mean[0] == 0 && mean[1] == 1);
  CHECK(more[2] == -kLnFirst && more[3] == -INFINITY);
  CHECK(top_ids[3] == 3 && top_ids[4] == 1 && top_ids[5] == -1 && top[3] == -kLnLast && top[4] == -kLnFirst);
  /* 1/2, 1 and 3/2 as bf16, and nothing where no logit belongs */
  CHECK(logits[0] == 0 && logits[2] == 0 && logits[3] == 0xFFFF);
  CHECK(logits[4] == 0x3F00 && logits[5] == 0x3F80 && logits[6] == 0x3FC0 && logits[7] == 0xFFFF);

  const uint8_t mask[kRows] = {0, 1};
  const int64_t list[1] = {0};
  isologit_score_report report = {.struct_size = sizeof report};
  request.row_mask = mask;
  CHECK(isologit_score(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(report.rows == 1 && logprobs[0] == 0 && rank[0] == 0 && top_ids[1] == 0 && logprobs[1] == -kLnLast);
  request.row_mask = NULL;
  request.row_list = list;
  request.row_count = 1;
  CHECK(isologit_score(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(report.rows == 1 && logprobs[0] == -kLnTwo && logprobs[1] == 0 && logits[4] == 0);
}

static void ignores_rows(void) {
  const int64_t usual[kRows] = {-100, 3};
  const int64_t own[kRows] = {1, 7};
  float logprobs[kRows];
  const isologit_head head = make_head();
  isologit_score_request request = make_request(logprobs);
  isologit_score_report report = {.struct_size = sizeof report};
  request.token_ids = usual;
  CHECK(isologit_score(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(logprobs[0] == 0 && logprobs[1] == -kLogprob && report.rows == 1);
  request.token_ids = own;
  request.has_ignore_index = 1;
  request.ignore_index = 7;
  CHECK(isologit_score(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(logprobs[0] == -kLnFour && logprobs[1] == 0 && report.rows == 1);
}

static void applies_bias_scale_softcap_and_temperature(void) {
  const float bias[kVocab] = {3, 2, 1, 0};
  const float two = 2;
  const float each[kRows] = {1, 2};
  float lse[kRows];
  isologit_head head = make_head();
  isologit_score_request request = make_request(NULL);
  request.lse = lse;
  request.token_ids = NULL;
  head.bias = (isologit_vector){.data = bias, .size = kVocab, .dtype = ISOLOGIT_F32};
  CHECK(isologit_score(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(lse[0] == kLse); /* 3, 2, 1, 0 */

  head = make_head();
  head.scale_kind = ISOLOGIT_SCALE_MULTIPLY;
  head.scale = 2;
  request.temperatures = &two;
  request.temperature_count = 1;
  CHECK(isologit_score(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(lse[1] == kLse); /* times 2, then divided by 2 */
  head.scale_kind = ISOLOGIT_SCALE_DIVIDE;
  head.scale = 0.5F;
  request.temperatures = each;
  request.temperature_count = kRows;
  CHECK(isologit_score(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(lse[0] == kLnFour && lse[1] == kLse);

  /* 2^-140 tanh(z / 2^-140) takes every logit above 0 to 2^-140, which is nothing beside 1 in e^z. */
  head = make_head();
  head.has_softcap = 1;
  head.softcap = 0x1p-140F;
  request.temperature_count = 0;
  CHECK(isologit_score(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(lse[1] == kLnFour);
}

static int stop(void* user, double share) {
  CHECK(share >= 0 && share <= 1);
  ++*(int*)user;
  return 0;
}

static int go_on(void* user, double share) {
  (void)share;
  ++*(int*)user;
  return 1;
}

static void obeys_options(void) {
  float logprobs[kRows];
  int calls = 0;
  char message[128];
  const isologit_head head = make_head();
  const isologit_score_request request = make_request(logprobs);
  isologit_score_options options = {.struct_size = sizeof options};
  isologit_score_report report = {.struct_size = sizeof report};
  options.threads = 1;
  options.kernel = "reference";
  options.progress = go_on;
  options.user = &calls;
  CHECK(isologit_score(&head, &request, &options, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(calls > 0 && report.threads == 1 && strcmp(report.kernel, "reference") == 0);
  calls = 0;
  options.progress = stop;
  CHECK(isologit_score(&head, &request, &options, NULL, message, sizeof message) == ISOLOGIT_CANCELLED);
  CHECK(calls == 1 && strstr(message, "cancelled") != NULL);
  options.kernel = "abacus";
  CHECK(isologit_score(&head, &request, &options, NULL, message, sizeof message) == ISOLOGIT_UNSUPPORTED);
  CHECK(strstr(message, "abacus") != NULL);
}

/* Scores and expects a refusal whose message has `words`. */
static void refuses(const isologit_head* head, const isologit_score_request* request, const char* words) {
  char message[256];
  CHECK(isologit_score(head, request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  if (strstr(message, words) == NULL) {
    fprintf(stderr, "expected '%s' in: %s\n", words, message);
    ++failures;
  }
}

static void refuses_nonsense(void) {
  float logprobs[kRows];
  const isologit_head head = make_head();
  const isologit_score_request request = make_request(logprobs);
  isologit_head bad_head = head;
  isologit_score_request bad = request;

  bad_head.weight.dtype = 77;
  refuses(&bad_head, &request, "weight: dtype is 77");
  bad_head = head;
  bad_head.bias.dtype = -1;
  refuses(&bad_head, &request, "bias: dtype is -1");
  bad_head = head;
  bad_head.scale_kind = 3;
  refuses(&bad_head, &request, "scale_kind: 3");
  bad_head = head;
  bad_head.weight.data = NULL;
  refuses(&bad_head, &request, "weight");
  bad_head = head;
  bad_head.vocab_size = kVocab + 1;
  refuses(&bad_head, &request, "vocab_size");
  bad_head = head;
  bad_head.struct_size = 0;
  refuses(&bad_head, &request, "head: struct_size is 0");
  bad.hidden.dtype = 77;
  refuses(&head, &bad, "hidden: dtype is 77");
  bad = request;
  bad.token_ids = NULL;
  refuses(&head, &bad, "token_ids");
  bad = request;
  bad.temperature_count = 1;
  refuses(&head, &bad, "temperature_count");
  bad.temperature_count = -1;
  refuses(&head, &bad, "temperature_count");
  const int64_t offsets[kRows + 1] = {0, 0, 2};
  const int64_t falling[] = {3, 1};
  bad = request;
  bad.kept = (isologit_id_lists){offsets, falling};
  refuses(&head, &bad, "kept ids: row 1 has id 1 after 3");
  bad = request;
  bad.banned = (isologit_id_lists){offsets, NULL};
  refuses(&head, &bad, "banned ids: ");
  bad = request;
  bad.has_range = 1;
  bad.last_id = kVocab + 1;
  refuses(&head, &bad, "support: range [0, 5)");
  bad.last_id = -1;
  refuses(&head, &bad, "last_id: -1");
  bad = request;
  bad.row_list = kIds;
  bad.row_count = -1;
  refuses(&head, &bad, "row_count: -1");
  bad.row_count = kRows;
  refuses(&head, &bad, "row_list[1]: 3 after 1");
  bad = request;
  bad.logits = logprobs;
  bad.logits_dtype = 77;
  refuses(&head, &bad, "logits: dtype is 77");
  bad = request;
  bad.ids_per_row = -1;
  refuses(&head, &bad, "ids_per_row: -1");
  bad = request;
  bad.top_k_logprobs = logprobs;
  refuses(&head, &bad, "top_k: 0");
  refuses(NULL, &request, "head: NULL");
  refuses(&head, NULL, "request: NULL");

  isologit_score_report report = {.struct_size = 8};
  char message[8];
  CHECK(isologit_score(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strcmp(message, "report:") == 0); /* cut to fit */
}

/* The addition takes the second row's logits away; a member of it that is wrong is named. */
static void scores_with_a_low_rank_addition(void) {
  const float a[kHidden] = {1, 0};
  const float b[kVocab] = {0, 2, 4, 6};
  float logprobs[kRows], lse[kRows];
  isologit_head head = make_head();
  head.lora.a = (isologit_matrix){a, 1, kHidden, kHidden, ISOLOGIT_F32};
  head.lora.b = (isologit_matrix){b, kVocab, 1, 1, ISOLOGIT_F32};
  head.lora.scale = -0.5;
  isologit_score_request request = make_request(logprobs);
  request.lse = lse;
  char message[256];
  CHECK(isologit_score(&head, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  CHECK(lse[0] == kLnFour && lse[1] == kLnFour && logprobs[1] == -kLnFour);
  head.lora.scale = 0; /* is 0, and no default */
  CHECK(isologit_score(&head, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  CHECK(lse[1] == kLse && logprobs[1] == -kLogprob);

  head.lora.scale = HUGE_VAL;
  refuses(&head, &request, "lora scale: inf");
  head.lora.scale = 1;
  head.lora.b.cols = 2;
  refuses(&head, &request, "lora: a of shape [1, 2] and b of [4, 2]; expected [r, 2] and [V, r]");
  head.lora.a.dtype = 9;
  refuses(&head, &request, "lora a: dtype is 9");
}

static void fits_other_versions(void) {
  struct {
    isologit_head known;
    int64_t unknown;
  } later;
  float logprobs[kRows];
  const isologit_score_request request = make_request(logprobs);
  char message[256];
  memset(&later, 0, sizeof later);
  later.known = make_head();
  later.known.struct_size = sizeof later;
  CHECK(isologit_score(&later.known, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  CHECK(logprobs[1] == -kLogprob);
  later.unknown = 1;
  CHECK(isologit_score(&later.known, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_UNSUPPORTED);
  CHECK(strstr(message, "head: struct_size") != NULL);

  struct {
    isologit_score_report known;
    int64_t unknown;
  } report;
  memset(&report, 0, sizeof report);
  report.known.struct_size = sizeof report;
  report.unknown = 42;
  const isologit_head head = make_head();
  CHECK(isologit_score(&head, &request, NULL, &report.known, message, sizeof message) == ISOLOGIT_OK);
  CHECK(report.unknown == 42 && report.known.rows == kRows && report.known.struct_size == sizeof report);
}

static void lists_kernels(void) {
  const int count = isologit_kernel_count();
  int chosen = 0;
  isologit_kernel_info info = {.struct_size = sizeof info};
  CHECK(count >= 2);
  for (int i = 0; i < count; ++i) {
    CHECK(isologit_kernel(i, &info) == ISOLOGIT_OK);
    CHECK(info.name[0] != '\0' && info.instruction_set[0] != '\0' &&
          (strcmp(info.arithmetic, "exact") == 0 || strcmp(info.arithmetic, "fast") == 0));
    CHECK((info.runnable != 0) == (info.why_not[0] == '\0'));
    CHECK(info.dtypes != 0 && info.dtypes < (1U << (ISOLOGIT_F32 + 1)));
    chosen += info.chosen;
  }
  CHECK(strcmp(info.name, "reference") == 0 && info.runnable && info.dtypes == 7);
  CHECK(chosen == 2 /* one for each arithmetic */);
  CHECK(isologit_kernel(count, &info) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_kernel(-1, &info) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(isologit_kernel(0, NULL) == ISOLOGIT_INVALID_ARGUMENT);
}

int main(void) {
  const char* version = isologit_version();
  CHECK(version[0] >= '0' && version[0] <= '9' && strchr(version, '.') != NULL);
  scores_by_hand();
  scores_of_encoded_weights();
  scores_over_a_support();
  ignores_rows();
  applies_bias_scale_softcap_and_temperature();
  obeys_options();
  refuses_nonsense();
  scores_with_a_low_rank_addition();
  fits_other_versions();
  lists_kernels();
  if (failures == 0) puts("all as expected");
  return failures == 0 ? 0 : 1;
}
