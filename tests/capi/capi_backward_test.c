/* Gradients and losses of the C interface from C11, on a head small enough to know them by hand. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "small_head.h"

static const int64_t kIds[kRows] = {1, 3};
static const float kUpstream[kRows] = {1, 2};

/* The probabilities of the second row, e^k / (1 + e + e^2 + e^3), and what the last one lacks to 1: rounded once to f32
 * from 50-digit values. */
static const float kP[kVocab] = {
    0.032058603280084988450811470131345884437113202585002F, 0.08714431874203256748945938856625732035650249878603F,
    0.23688281808991013229802928804681784119774215724994F, 0.64391425988797231176169985325557895400864214137903F};
static const float kRest = 0.35608574011202768823830014674442104599135785862097F;

typedef struct gradients {
  float dhidden[kRows * kHidden];
  float dweight[kVocab * kHidden];
  float dbias[kVocab];
} gradients;

static isologit_backward_request make_request(gradients* to) {
  isologit_backward_request request = {.struct_size = sizeof request};
  request.hidden = (isologit_matrix){.data = kStates, .rows = kRows, .cols = kHidden, .row_stride = kHidden};
  request.hidden.dtype = ISOLOGIT_BF16;
  request.token_ids = kIds;
  request.d_logprobs = kUpstream;
  request.dhidden = (isologit_gradient){.data = to->dhidden, .row_stride = kHidden, .dtype = ISOLOGIT_F32};
  request.dweight = (isologit_gradient){.data = to->dweight, .row_stride = kHidden, .dtype = ISOLOGIT_F32};
  request.dbias = (isologit_gradient){.data = to->dbias, .dtype = ISOLOGIT_F32};
  return request;
}

static isologit_backward_options make_options(int32_t arithmetic) {
  isologit_backward_options options = {.struct_size = sizeof options};
  options.has_arithmetic = 1;
  options.arithmetic = arithmetic;
  return options;
}

static void compute(const isologit_backward_request* request) {
  const isologit_head head = make_head();
  const isologit_backward_options options = make_options(ISOLOGIT_EXACT);
  char message[256] = "not empty";
  CHECK(isologit_backward(&head, request, &options, NULL, message, sizeof message) == ISOLOGIT_OK);
  CHECK(message[0] == '\0');
}

/* The first row's probabilities are all 1/4; the second row's dz are sums of f32 numbers that a double holds. */
static void differentiates_by_hand(void) {
  gradients got;
  const isologit_backward_request request = make_request(&got);
  compute(&request);
  const double first[kVocab] = {-0.25, 0.75, -0.25, -0.25};
  const double second[kVocab] = {-2.0 * kP[0], -2.0 * kP[1], -2.0 * kP[2], 2.0 * kRest};
  CHECK(got.dhidden[0] == -0.5F && got.dhidden[1] == 0.0F);
  CHECK(got.dhidden[2] == (float)(second[1] + 2 * second[2] + 3 * second[3]));
  CHECK(got.dhidden[3] == (float)(second[0] + second[1] + second[2] + second[3]));
  for (int v = 0; v < kVocab; ++v) {
    CHECK(got.dweight[2 * v] == (float)second[v] && got.dweight[2 * v + 1] == 0);
    CHECK(got.dbias[v] == (float)(first[v] + second[v]));
  }
}

static void adds_upstreams_and_divides_by_the_temperature(void) {
  gradients got;
  const float lse[kRows] = {2, 0};
  const float entropy[kRows] = {5, 0}; /* equal logits: no gradient */
  const float none[kRows] = {0, 0};
  const float temperatures[kRows] = {2, 1};
  isologit_backward_request request = make_request(&got);
  request.d_logprobs = none;
  request.d_lse = lse;
  request.d_entropy = entropy;
  request.temperatures = temperatures;
  request.temperature_count = kRows;
  compute(&request);
  for (int v = 0; v < kVocab; ++v) CHECK(got.dbias[v] == 0.25F);
  CHECK(got.dhidden[2] == 0 && got.dhidden[3] == 0);
}

static void shares_the_upstream_of_the_mean_logit(void) {
  gradients got;
  const float none[kRows] = {0, 0};
  const float mean[kRows] = {2, -1};
  isologit_backward_request request = make_request(&got);
  request.d_logprobs = none;
  request.d_mean_logits = mean;
  compute(&request);
  for (int v = 0; v < kVocab; ++v) CHECK(got.dbias[v] == 0.25F && got.dweight[2 * v] == -0.25F);
  CHECK(got.dhidden[0] == 3 && got.dhidden[1] == 2 && got.dhidden[2] == -1.5F && got.dhidden[3] == -1);
}

static void takes_several_ids_and_an_id_to_ignore(void) {
  gradients got;
  const int64_t ids[kRows * 2] = {1, 7, 7, 7};
  const float upstream[kRows * 2] = {1, 3, 4, 5};
  isologit_backward_request request = make_request(&got);
  request.token_ids = ids;
  request.ids_per_row = 2;
  request.d_logprobs = upstream;
  request.has_ignore_index = 1;
  request.ignore_index = 7;
  compute(&request);
  const float first[kVocab] = {-0.25F, 0.75F, -0.25F, -0.25F};
  CHECK(memcmp(got.dbias, first, sizeof first) == 0);
}

static void stays_in_the_support(void) {
  gradients got;
  const int64_t offsets[kRows + 1] = {0, 2, 3};
  const int64_t kept[3] = {1, 2, 0};
  const int64_t no_offsets[kRows + 1] = {0, 1, 1};
  const int64_t banned[1] = {1};
  isologit_backward_request request = make_request(&got);
  request.kept = (isologit_id_lists){offsets, kept};
  compute(&request);
  /* The second row keeps one id, which is not its own: nothing is left to fall but that one. */
  const float two[kVocab] = {-2, 0.5F, -0.5F, 0};
  CHECK(memcmp(got.dbias, two, sizeof two) == 0);
  request.has_range = 1;
  request.first_id = 1;
  request.last_id = 3;
  request.kept = (isologit_id_lists){NULL, NULL};
  request.banned = (isologit_id_lists){no_offsets, banned};
  request.hidden.rows = 1;
  compute(&request); /* of 1 and 2 the first is banned, and it is the row's own id */
  const float one[kVocab] = {0, 0, -1, 0};
  CHECK(memcmp(got.dbias, one, sizeof one) == 0);
}

static void differentiates_logits_and_accumulates(void) {
  gradients got;
  const float upstream[kRows * 5] = {1, -2, 0.5F, 0, 99, 4, 0, 0, -1, 99};
  isologit_backward_request request = make_request(&got);
  request.token_ids = NULL;
  request.d_logprobs = NULL;
  request.d_logits = upstream;
  request.d_logits_row_stride = 5;
  compute(&request);
  CHECK(got.dhidden[0] == -1 && got.dhidden[1] == -0.5F && got.dhidden[2] == -3 && got.dhidden[3] == 3);
  CHECK(got.dbias[0] == 5 && got.dbias[1] == -2 && got.dbias[2] == 0.5F && got.dbias[3] == -1);

  /* 256 + 1 lies halfway between two bf16 numbers and is rounded once, to the even one. */
  uint16_t buffer[kVocab] = {0x4380, 0x4380, 0, 0}; /* 256, 256 */
  const float sums[kRows * 5] = {0.5F, 1.5F, 0, 0, 99, 0.5F, 1.5F, 0, 0, 99};
  request.d_logits = sums;
  request.dbias = (isologit_gradient){.data = buffer, .dtype = ISOLOGIT_BF16, .accumulate = 1};
  request.dhidden.data = request.dweight.data = NULL;
  memset(&got, 0x77, sizeof got);
  compute(&request);
  CHECK(buffer[0] == 0x4380 && buffer[1] == 0x4382 && buffer[2] == 0);
  CHECK(((unsigned char*)got.dhidden)[0] == 0x77 && ((unsigned char*)got.dweight)[0] == 0x77);
}

/* Those of equal logits have no summary, which is NaN; the other row's logits are 0 to 3. */
static void takes_summaries_of_the_forward_pass(void) {
  gradients got;
  gradients without;
  char message[256];
  isologit_row_summary summaries[kRows];
  const isologit_head head = make_head();
  isologit_backward_request request = make_request(&without);
  isologit_score_request forward = {.struct_size = sizeof forward};
  compute(&request);
  forward.hidden = request.hidden;
  forward.summaries = summaries;
  CHECK(isologit_score(&head, &forward, NULL, NULL, message, sizeof message) == ISOLOGIT_OK);
  CHECK(isnan(summaries[0].top) && summaries[1].top == 3);
  const double mass = exp(-1) + exp(-2) + exp(-3);
  const double moment = exp(-1) + 2 * exp(-2) + 3 * exp(-3);
  CHECK(fabs(summaries[1].mass - mass) < 1e-12 && fabs(summaries[1].moment - moment) < 1e-12);
  CHECK(summaries[1].mass_error > 0 && summaries[1].mass_error < 1e-12);
  CHECK(summaries[1].moment_error > 0 && summaries[1].moment_error < 1e-12);
  request = make_request(&got);
  request.summaries = summaries;
  compute(&request);
  CHECK(memcmp(&got, &without, sizeof got) == 0);
  summaries[1].top = 2;
  CHECK(isologit_backward(&head, &request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "summaries[1]: the logits of this row are not those") != NULL);
}

static int stop(void* user, double share) {
  CHECK(share >= 0 && share <= 1);
  ++*(int*)user;
  return 0;
}

static void obeys_options(void) {
  gradients got;
  int calls = 0;
  char message[128];
  const isologit_head head = make_head();
  const isologit_backward_request request = make_request(&got);
  isologit_backward_options options = {.struct_size = sizeof options, .threads = 1};
  isologit_backward_report report = {.struct_size = sizeof report};
  CHECK(isologit_backward(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(report.arithmetic == ISOLOGIT_FAST && report.rows == kRows && report.kernel[0] != '\0');
  options.kernel = "reference";
  CHECK(isologit_backward(&head, &request, &options, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(report.arithmetic == ISOLOGIT_EXACT && report.threads == 1 && strcmp(report.kernel, "reference") == 0);
  CHECK(report.derivative_fallbacks == kRows * kVocab && report.sum_fallbacks > 0);
  options.progress = stop;
  options.user = &calls;
  CHECK(isologit_backward(&head, &request, &options, NULL, message, sizeof message) == ISOLOGIT_CANCELLED);
  CHECK(calls == 1 && strstr(message, "cancelled") != NULL);
}

static void refuses(const isologit_backward_request* request, const isologit_backward_options* options,
                    const char* words) {
  char message[256];
  const isologit_head head = make_head();
  CHECK(isologit_backward(&head, request, options, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  if (strstr(message, words) == NULL) {
    fprintf(stderr, "expected '%s' in: %s\n", words, message);
    ++failures;
  }
}

static void refuses_nonsense(void) {
  gradients got;
  const isologit_backward_request request = make_request(&got);
  const isologit_backward_options options = make_options(7);
  isologit_backward_request bad = request;
  isologit_backward_report report = {.struct_size = 8};
  char message[256];
  const isologit_head head = make_head();
  refuses(NULL, NULL, "request: NULL");
  refuses(&request, &options, "arithmetic: 7; expected 0 (exact) or 1 (fast)");
  bad.dweight.dtype = 9;
  refuses(&bad, NULL, "dweight: dtype is 9");
  bad = request;
  bad.ids_per_row = -1;
  refuses(&bad, NULL, "ids_per_row: -1");
  bad = request;
  bad.token_ids = NULL;
  refuses(&bad, NULL, "token_ids: none given");
  bad = request;
  bad.temperature_count = 1;
  refuses(&bad, NULL, "temperature_count is 1");
  bad = request;
  bad.d_logits = kUpstream;
  refuses(&bad, NULL, "d_logits: given together");
  bad = request;
  bad.has_range = 1;
  bad.last_id = kVocab + 1;
  refuses(&bad, NULL, "support: range");
  bad = request;
  bad.struct_size = 16;
  refuses(&bad, NULL, "request: struct_size is 16");
  CHECK(isologit_backward(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "report: struct_size") != NULL);
}

static void reduces_losses(void) {
  const float logprobs[4] = {-1, -2, -2, -100};
  const int64_t ids[4] = {0, 0, 0, 5};
  float loss = -1;
  char message[128] = "not empty";
  CHECK(isologit_mean_loss(logprobs, 4, ids, 5, &loss, message, sizeof message) == ISOLOGIT_OK);
  CHECK(loss == 5.0F / 3.0F && message[0] == '\0');
  CHECK(isologit_sum_loss(logprobs, 4, ids, 5, &loss, NULL, 0) == ISOLOGIT_OK && loss == 5);
  CHECK(isologit_sum_loss(logprobs, 4, NULL, 0, &loss, NULL, 0) == ISOLOGIT_OK && loss == 105);
  CHECK(isologit_mean_loss(NULL, 0, NULL, 0, &loss, NULL, 0) == ISOLOGIT_OK && isnan(loss));
  CHECK(isologit_sum_loss(NULL, 0, NULL, 0, &loss, NULL, 0) == ISOLOGIT_OK && loss == 0 && !signbit(loss));
  CHECK(isologit_mean_loss_upstream(2, 3, &loss, NULL, 0) == ISOLOGIT_OK && loss == -2.0F / 3.0F);

  CHECK(isologit_mean_loss(NULL, 4, NULL, 0, &loss, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "logprobs: count is 4 and the pointer is NULL") != NULL);
  CHECK(isologit_sum_loss(logprobs, 4, NULL, 0, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "loss: NULL") != NULL);
  CHECK(isologit_mean_loss_upstream(2, 0, &loss, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strstr(message, "n: 0") != NULL);
  CHECK(isologit_mean_loss_upstream(2, 1, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
}

int main(void) {
  differentiates_by_hand();
  shares_the_upstream_of_the_mean_logit();
  adds_upstreams_and_divides_by_the_temperature();
  takes_several_ids_and_an_id_to_ignore();
  stays_in_the_support();
  takes_summaries_of_the_forward_pass();
  differentiates_logits_and_accumulates();
  obeys_options();
  refuses_nonsense();
  reduces_losses();
  if (failures == 0) puts("all as expected");
  return failures == 0 ? 0 : 1;
}
