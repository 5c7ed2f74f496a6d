/* isologit_sample from C11: draws small enough to know by hand, and every way to ask wrongly. */
#include <string.h>

#include "small_head.h"

static const uint64_t kZero64 = 0;
static const uint32_t kZero32 = 0;

/* Rounded once to f32, from 50-digit values: ln 2, ln 4, ln(1 + e + e^2 + e^3) - 3, ln(1 + 1 / e). */
static const float kLnTwo = 0.69314718055994530941723212145817656807550013436026F;
static const float kLnFour = 1.38629436111989061883446424291635313615100026872051F;
static const float kFirst = 0.44018969856119533049272230132616007334961314847871F;
static const float kLast = 0.31326168751822283404899549496785564191528008567034F;

/* Seed, sequence and position 0: the first words of ids 0 to 3 are those of the published known answer of Philox for
 * zeros, 6627e8d5 e169c58d bc57ac4c 9b00dbd8. */
static isologit_sample_request make_request(int64_t* ids) {
  isologit_sample_request request = {.struct_size = sizeof request};
  request.hidden = (isologit_matrix){.data = kStates, .rows = kRows, .cols = kHidden, .row_stride = kHidden};
  request.hidden.dtype = ISOLOGIT_BF16;
  request.seeds = &kZero64;
  request.sequence_ids = &kZero64;
  request.positions = &kZero32;
  request.seed_count = request.sequence_id_count = request.position_count = 1;
  request.ids = ids;
  return request;
}

static void draws_by_hand(void) {
  int64_t ids[kRows];
  float logprobs[kRows];
  float cut_logprobs[kRows];
  float log_kept_cut[kRows];
  char message[64] = "not empty";
  const float temperatures[kRows] = {1, 0};
  const float top_p = 0.5F;
  const int64_t top_k = 2;
  const float min_p = 1;
  const isologit_head head = make_head();
  isologit_sample_request request = make_request(ids);
  request.temperatures = temperatures;
  request.temperature_count = kRows;
  request.logprobs = logprobs;
  request.cut_logprobs = cut_logprobs;
  request.log_kept_cut = log_kept_cut;
  isologit_sample_report report = {.struct_size = sizeof report};
  CHECK(isologit_sample(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(message[0] == '\0');
  CHECK(ids[0] == 1 && logprobs[0] == -kLnFour && cut_logprobs[0] == -kLnFour && log_kept_cut[0] == 0);
  CHECK(ids[1] == 3 && logprobs[1] == -kFirst && cut_logprobs[1] == -kFirst && log_kept_cut[1] == 0);
  CHECK(report.rows == kRows && report.rounds == 1 && report.threads >= 1 && report.kernel[0] != '\0');
  CHECK(report.struct_size == sizeof report);

  /* Half of four equal logits is the first two, of which id 1 has the greater word. */
  request.top_p = &top_p;
  request.top_p_count = 1;
  CHECK(isologit_sample(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 1 && logprobs[0] == -kLnFour && cut_logprobs[0] == -kLnTwo && log_kept_cut[0] == -kLnTwo);
  request.top_k = &top_k;
  request.top_k_count = 1;
  CHECK(isologit_sample(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 0 && logprobs[0] == -kLnFour && cut_logprobs[0] == 0 && log_kept_cut[0] == -kLnFour);
  request.top_p_count = request.top_k_count = request.temperature_count = 0;
  request.min_p = &min_p;
  request.min_p_count = 1;
  CHECK(isologit_sample(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[1] == 3 && cut_logprobs[1] == 0 && log_kept_cut[1] == -kFirst);
}

static void obeys_supports_and_row_selection(void) {
  int64_t ids[kRows];
  float logprobs[kRows];
  const int64_t kept_offsets[kRows + 1] = {0, 3, 4};
  const int64_t kept[] = {0, 2, 3, 1};
  const int64_t banned_offsets[kRows + 1] = {0, 1, 1};
  const int64_t banned[] = {2};
  const uint8_t mask[kRows] = {0, 1};
  const int64_t list[1] = {0};
  const isologit_head head = make_head();
  isologit_sample_report report = {.struct_size = sizeof report};
  isologit_sample_request request = make_request(ids);
  request.logprobs = logprobs;
  request.kept = (isologit_id_lists){kept_offsets, kept};
  CHECK(isologit_sample(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 2 && ids[1] == 1 && logprobs[1] == 0);
  request.banned = (isologit_id_lists){banned_offsets, banned};
  CHECK(isologit_sample(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 3 && logprobs[0] == -kLnTwo);
  request = make_request(ids);
  request.logprobs = logprobs;
  request.has_range = 1;
  request.first_id = 2;
  request.last_id = 4;
  CHECK(isologit_sample(&head, &request, NULL, NULL, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 2 && logprobs[0] == -kLnTwo);
  CHECK(ids[1] == 3 && logprobs[1] == -kLast);

  request.row_mask = mask;
  CHECK(isologit_sample(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 0 && logprobs[0] == 0 && ids[1] >= 2 && report.rows == 1);
  request.row_mask = NULL;
  request.row_list = list;
  request.row_count = 1;
  CHECK(isologit_sample(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 2 && ids[1] == 0 && logprobs[1] == 0 && report.rows == 1);
  request.row_count = 0;
  CHECK(isologit_sample(&head, &request, NULL, &report, NULL, 0) == ISOLOGIT_OK);
  CHECK(ids[0] == 0 && report.rows == 0);
}

static int stop(void* user, double share) {
  CHECK(share >= 0 && share <= 1);
  ++*(int*)user;
  return 0;
}

static void obeys_options(void) {
  int64_t ids[kRows];
  int calls = 0;
  char message[128];
  const isologit_head head = make_head();
  const isologit_sample_request request = make_request(ids);
  isologit_score_options options = {.struct_size = sizeof options};
  isologit_sample_report report = {.struct_size = sizeof report};
  options.threads = 1;
  options.kernel = "reference";
  CHECK(isologit_sample(&head, &request, &options, &report, message, sizeof message) == ISOLOGIT_OK);
  CHECK(report.threads == 1 && strcmp(report.kernel, "reference") == 0 && ids[0] == 1);
  options.progress = stop;
  options.user = &calls;
  CHECK(isologit_sample(&head, &request, &options, NULL, message, sizeof message) == ISOLOGIT_CANCELLED);
  CHECK(calls == 1 && strstr(message, "cancelled") != NULL);
  options.kernel = "abacus";
  CHECK(isologit_sample(&head, &request, &options, NULL, message, sizeof message) == ISOLOGIT_UNSUPPORTED);
}

static void refuses(const isologit_head* head, const isologit_sample_request* request, const char* words) {
  char message[256];
  CHECK(isologit_sample(head, request, NULL, NULL, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  if (strstr(message, words) == NULL) {
    fprintf(stderr, "expected '%s' in: %s\n", words, message);
    ++failures;
  }
}

static void refuses_nonsense(void) {
  int64_t ids[kRows];
  const float temperatures[kRows] = {1, -1};
  const float zero = 0;
  const int64_t minus_one = -1;
  const int64_t offsets[kRows + 1] = {0, 0, 2};
  const int64_t falling[] = {3, 1};
  const isologit_head head = make_head();
  const isologit_sample_request request = make_request(ids);
  isologit_sample_request bad = request;

  refuses(NULL, &request, "head: NULL");
  refuses(&head, NULL, "request: NULL");
  bad.struct_size = 8;
  refuses(&head, &bad, "request: struct_size is 8");
  bad = request;
  bad.hidden.dtype = 77;
  refuses(&head, &bad, "hidden: dtype is 77");
  bad = request;
  bad.seed_count = 0;
  refuses(&head, &bad, "seeds: 0 for 2 rows");
  bad = request;
  bad.positions = NULL;
  refuses(&head, &bad, "positions: the count is 1 and the pointer is NULL");
  bad = request;
  bad.sequence_id_count = -1;
  refuses(&head, &bad, "sequence_ids: the count is -1");
  bad = request;
  bad.temperatures = temperatures;
  bad.temperature_count = kRows;
  refuses(&head, &bad, "temperatures[1]: -1");
  bad = request;
  bad.top_p = &zero;
  bad.top_p_count = 1;
  refuses(&head, &bad, "top_p[0]: 0");
  bad = request;
  bad.top_k = &minus_one;
  bad.top_k_count = 1;
  refuses(&head, &bad, "top_k[0]: -1");
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
  bad.row_list = ids;
  bad.row_count = -1;
  refuses(&head, &bad, "row_count: -1");
  bad = request;
  bad.logprobs = (float*)ids;
  refuses(&head, &bad, "overlaps");

  isologit_sample_report report = {.struct_size = 8};
  char message[8];
  CHECK(isologit_sample(&head, &request, NULL, &report, message, sizeof message) == ISOLOGIT_INVALID_ARGUMENT);
  CHECK(strcmp(message, "report:") == 0); /* cut to fit */
}

int main(void) {
  draws_by_hand();
  obeys_supports_and_row_selection();
  obeys_options();
  refuses_nonsense();
  if (failures == 0) puts("all as expected");
  return failures == 0 ? 0 : 1;
}
