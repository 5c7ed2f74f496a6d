#include "scenario.hpp"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace isologit::capi_test {

Array::Array(std::string type, std::size_t size, const void* values)
    : type_(std::move(type)), size_(size), bytes_(size + 2 * kGuard, 0xA7) {
  if (values != nullptr) std::memcpy(data(), values, size);
}

bool Array::intact() const {
  const auto is_guard = [](unsigned char byte) { return byte == 0xA7; };
  return std::all_of(bytes_.begin(), bytes_.begin() + kGuard, is_guard) &&
         std::all_of(bytes_.end() - kGuard, bytes_.end(), is_guard);
}

Array* Scenario::array_at(const void* data) const {
  for (const auto& array : arrays) {
    if (array->data() == data) return array.get();
  }
  return nullptr;
}

namespace {

template <class T>
constexpr const char* kTypeName = "";
template <>
constexpr const char* kTypeName<float> = "float";
template <>
constexpr const char* kTypeName<std::int32_t> = "int32_t";
template <>
constexpr const char* kTypeName<std::int64_t> = "int64_t";
template <>
constexpr const char* kTypeName<std::uint8_t> = "uint8_t";
template <>
constexpr const char* kTypeName<std::uint32_t> = "uint32_t";
template <>
constexpr const char* kTypeName<std::uint64_t> = "uint64_t";
template <>
constexpr const char* kTypeName<isologit_row_summary> = "isologit_row_summary";

template <class T>
T* add(Scenario& scenario, const std::vector<T>& values) {
  scenario.arrays.push_back(std::make_unique<Array>(kTypeName<T>, values.size() * sizeof(T), values.data()));
  return static_cast<T*>(scenario.arrays.back()->data());
}

template <class T>
T* room(Scenario& scenario, std::int64_t count) {
  return add(scenario, std::vector<T>(static_cast<std::size_t>(count)));
}

std::vector<float> ramp(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.125F * static_cast<float>((i * 7) % 11) - 0.5F;
  return values;
}

isologit_matrix matrix(Scenario& scenario, std::int64_t rows, std::int64_t cols) {
  return {add(scenario, ramp(rows * cols)), rows, cols, cols, ISOLOGIT_F32};
}

isologit_gradient gradient(Scenario& scenario, std::int64_t rows, std::int64_t cols) {
  return {room<float>(scenario, rows * cols), cols, ISOLOGIT_F32, 1};
}

void add_head(Scenario& scenario) {
  isologit_head& head = scenario.head;
  head.struct_size = sizeof head;
  head.weight = matrix(scenario, kVocab, kHidden);
  head.bias = {add(scenario, ramp(kVocab)), kVocab, ISOLOGIT_F32};
  head.vocab_size = kVocab;
  head.has_softcap = 1;
  head.softcap = 3;
  head.scale_kind = ISOLOGIT_SCALE_MULTIPLY;
  head.scale = 0.75F;
  head.lora = {matrix(scenario, kRank, kHidden), matrix(scenario, kVocab, kRank), 1.0 / 3};
  scenario.structures["isologit_head"] = &head;
}

template <class Options>
void add_options(Scenario& scenario, const char* name, Options& options) {
  options.struct_size = sizeof options;
  options.kernel = "portable";
  options.progress = [](void*, double) { return 1; };
  options.processors = add(scenario, std::vector<std::int32_t>{sched_getcpu()});
  options.processor_count = 1;
  scenario.structures[name] = &options;
}

template <class Report>
void add_report(Scenario& scenario, const char* name, Report& report) {
  report.struct_size = sizeof report;
  scenario.structures[name] = &report;
}

// One value for each row.
template <class Request>
void add_temperatures(Scenario& scenario, Request& request) {
  request.temperatures = add(scenario, std::vector<float>{1, 0.5F, 2});
  request.temperature_count = kRows;
}

template <class Request>
void add_support(Scenario& scenario, Request& request) {
  request.has_range = 1;
  request.first_id = 0;
  request.last_id = kVocab;
  request.kept = {add(scenario, std::vector<std::int64_t>{0, 4, 7, 12}),
                  add(scenario, std::vector<std::int64_t>{0, 1, 2, 3, 1, 3, 4, 0, 1, 2, 3, 4})};
  request.mask = add(scenario, std::vector<std::uint8_t>{1, 1, 1, 0, 1, 1, 255, 1, 1, 1, 0, 1, 1, 1, 1});
  request.mask_row_stride = kVocab;
  request.banned = {add(scenario, std::vector<std::int64_t>{0, 1, 1, 2}),
                    add(scenario, std::vector<std::int64_t>{2, 4})};
}

template <class Request>
void add_selection(Scenario& scenario, Request& request, bool list) {
  if (list) {
    request.row_list = add(scenario, std::vector<std::int64_t>{0, 2});
    request.row_count = 2;
  } else {
    request.row_mask = add(scenario, std::vector<std::uint8_t>{1, 0, 1});
  }
}

std::vector<std::int64_t> ids_of(std::int64_t count) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i * 3) % kVocab;
  return ids;
}

template <class Call>
void set_call(Scenario& scenario, Call call) {
  scenario.call = [call] {
    char message[512] = "";
    const isologit_status status = call(message, sizeof message);
    return Outcome{status, message};
  };
}

void add_score(Scenario& s, bool list) {
  isologit_score_request& request = s.score;
  request.struct_size = sizeof request;
  request.hidden = matrix(s, kRows, kHidden);
  request.token_ids = add(s, ids_of(kRows));
  add_temperatures(s, request);
  add_support(s, request);
  add_selection(s, request, list);
  for (float** output : {&request.logprobs, &request.lse, &request.entropy, &request.raw_logprobs, &request.sum_p2,
                         &request.log_kept, &request.mean_logits}) {
    *output = room<float>(s, kRows);
  }
  request.argmax = room<std::int64_t>(s, kRows);
  request.rank = room<std::int64_t>(s, kRows);
  request.ids_per_row = kIds;
  request.ids = add(s, ids_of(kRows * kIds));
  request.ids_logprobs = room<float>(s, kRows * kIds);
  request.top_k = kTopK;
  request.top_k_ids = room<std::int64_t>(s, kRows * kTopK);
  request.top_k_logprobs = room<float>(s, kRows * kTopK);
  request.logits = room<float>(s, kRows * kVocab);
  request.logits_dtype = ISOLOGIT_F32;
  request.logits_row_stride = kVocab;
  request.logits_count = kVocab;
  request.summaries = room<isologit_row_summary>(s, kRows);
  s.structures["isologit_score_request"] = &request;
  add_head(s);
  add_options(s, "isologit_score_options", s.options);
  add_report(s, "isologit_score_report", s.report);
}

void make_score(Scenario& s, bool list) {
  s.name = list ? "score, by list" : "score";
  add_score(s, list);
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_score(&s.head, &s.score, &s.options, &s.report, message, size);
  });
}

// E4M3, a scale for each block of [2, 1]; the last row has a block of its own.
void make_score_of_f8(Scenario& s) {
  make_score(s, false);
  s.name = "score of f8";
  std::vector<std::uint8_t> values;
  for (int i = 0; i < kVocab * kHidden; ++i) values.push_back(static_cast<std::uint8_t>(0x30 + 5 * i));
  s.head.lora = {};  // not beside f8
  s.head.weight.data = nullptr;
  s.head.encoded = add(s, values);
  s.head.encoding = ISOLOGIT_F8_E4M3;
  s.head.f8_scales = matrix(s, 3, kHidden);
  s.head.f8_block_rows = 2;
  s.head.f8_block_cols = 1;
}

// The only party there is, which has all ids and gets its own bytes back.
// One, which has everything.
void add_peers(Scenario& s) {
  s.peers.struct_size = sizeof s.peers;
  s.peers.vocab_size = kVocab;
  s.peers.count = 1;
  s.peers.gather = [](void*, const void* bytes, std::size_t size, const void** all, std::size_t* sizes) {
    *all = bytes;
    sizes[0] = size;
    return 1;
  };
  s.structures["isologit_peers"] = &s.peers;
}

void make_party(Scenario& s) {
  s.name = "score of a party";
  add_score(s, false);
  s.score.logits = nullptr;
  add_peers(s);
  s.options.peers = &s.peers;
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_score(&s.head, &s.score, &s.options, &s.report, message, size);
  });
}

void make_partial(Scenario& s) {
  s.name = "partial";
  add_score(s, true);
  set_call(s, [&s](char* message, std::size_t size) {
    isologit_partial* partial = nullptr;
    isologit_status status = isologit_partial_begin(&s.head, &s.score, &s.options, &partial, message, size);
    for (std::int32_t finished = 0; status == ISOLOGIT_OK && finished == 0;) {
      status = isologit_partial_absorb(partial, &s.head, 0, message, size);
      if (status == ISOLOGIT_OK) status = isologit_partial_finish_round(partial, &finished, message, size);
    }
    if (status == ISOLOGIT_OK) status = isologit_partial_report(partial, &s.report, message, size);
    isologit_partial_end(partial);
    return status;
  });
}

// What draws have in common, of hidden states and of given logits.
template <class Request>
void add_draws(Scenario& s, Request& request) {
  request.struct_size = sizeof request;
  add_temperatures(s, request);
  request.seeds = add(s, std::vector<std::uint64_t>{7});
  request.seed_count = 1;
  request.sequence_ids = add(s, std::vector<std::uint64_t>{1, 2, 3});
  request.sequence_id_count = kRows;
  request.positions = add(s, std::vector<std::uint32_t>{9});
  request.position_count = 1;
  request.min_p = add(s, std::vector<float>{0.01F});
  request.min_p_count = 1;
  request.top_k = add(s, std::vector<std::int64_t>{4, 3, 2});
  request.top_k_count = kRows;
  request.top_p = add(s, std::vector<float>{0.9F});
  request.top_p_count = 1;
  request.ids = room<std::int64_t>(s, kRows);
  request.logprobs = room<float>(s, kRows);
  request.cut_logprobs = room<float>(s, kRows);
  request.log_kept_cut = room<float>(s, kRows);
  add_options(s, "isologit_score_options", s.options);
  add_report(s, "isologit_sample_report", s.sample_report);
}

void make_sample(Scenario& s) {
  s.name = "sample";
  isologit_sample_request& request = s.sample;
  request.hidden = matrix(s, kRows, kHidden);
  add_support(s, request);
  add_selection(s, request, true);
  add_draws(s, request);
  s.structures["isologit_sample_request"] = &request;
  add_head(s);
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_sample(&s.head, &s.sample, &s.options, &s.sample_report, message, size);
  });
}

void make_sample_logits(Scenario& s) {
  s.name = "sample_logits";
  isologit_logits_sample_request& request = s.logits_sample;
  request.logits = matrix(s, kRows, kVocab);
  add_draws(s, request);
  request.cut_mask = room<std::uint8_t>(s, kRows * kVocab);
  s.structures["isologit_logits_sample_request"] = &request;
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_sample_logits(&s.logits_sample, &s.options, &s.sample_report, message, size);
  });
}

enum class Upstream { results, logits };

void make_backward(Scenario& s, Upstream upstream) {
  s.name = upstream == Upstream::logits ? "backward of logits" : "backward";
  isologit_backward_request& request = s.backward;
  request.struct_size = sizeof request;
  request.hidden = matrix(s, kRows, kHidden);
  add_temperatures(s, request);
  if (upstream == Upstream::logits) {
    request.d_logits = add(s, ramp(kRows * kVocab));
    request.d_logits_row_stride = kVocab;
  } else {
    add_support(s, request);
    request.token_ids = add(s, ids_of(kRows * kIds));
    request.ids_per_row = kIds;
    request.d_logprobs = add(s, ramp(kRows * kIds));
    request.d_lse = add(s, ramp(kRows));
    request.d_entropy = add(s, ramp(kRows));
    request.d_mean_logits = add(s, ramp(kRows));
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    request.summaries = add(s, std::vector<isologit_row_summary>(kRows, {kNone, 0, 0, 0, 0}));
  }
  request.dhidden = gradient(s, kRows, kHidden);
  request.dweight = gradient(s, kVocab, kHidden);
  request.dbias = gradient(s, 1, kVocab);
  request.dlora_a = gradient(s, kRank, kHidden);
  request.dlora_b = gradient(s, kVocab, kRank);
  s.structures["isologit_backward_request"] = &request;
  add_head(s);
  add_options(s, "isologit_backward_options", s.backward_options);
  add_report(s, "isologit_backward_report", s.backward_report);
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_backward(&s.head, &s.backward, &s.backward_options, &s.backward_report, message, size);
  });
}

template <class Request>
void add_given(Scenario& s, Request& request) {
  request.struct_size = sizeof request;
  request.logits = matrix(s, kRows, kVocab);
  add_temperatures(s, request);
  request.token_ids = add(s, ids_of(kRows * kIds));
  request.ids_per_row = kIds;
}

void make_score_logits(Scenario& s) {
  s.name = "score_logits";
  isologit_logits_request& request = s.logits;
  add_given(s, request);
  request.logprobs = room<float>(s, kRows * kIds);
  request.lse = room<float>(s, kRows);
  request.entropy = room<float>(s, kRows);
  request.log_softmax = room<float>(s, kRows * kVocab);
  request.log_softmax_row_stride = kVocab;
  s.structures["isologit_logits_request"] = &request;
  add_options(s, "isologit_score_options", s.options);
  add_report(s, "isologit_score_report", s.report);
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_score_logits(&s.logits, &s.options, &s.report, message, size);
  });
}

void make_party_backward(Scenario& s) {
  make_backward(s, Upstream::results);
  s.name = "backward of a party";
  add_peers(s);
  s.peers.scatter = [](void*, const void* bytes, const std::size_t* sizes, const void** all, std::size_t* all_sizes) {
    *all = bytes;
    all_sizes[0] = sizes[0];
    return 1;
  };
  s.peers.last_row = kRows;
  s.backward_options.peers = &s.peers;
}

void make_backward_logits(Scenario& s, Upstream upstream) {
  s.name = upstream == Upstream::logits ? "backward_logits of log_softmax" : "backward_logits";
  isologit_logits_backward_request& request = s.logits_backward;
  add_given(s, request);
  if (upstream == Upstream::logits) {
    request.d_log_softmax = add(s, ramp(kRows * kVocab));
    request.d_log_softmax_row_stride = kVocab;
  } else {
    request.d_logprobs = add(s, ramp(kRows * kIds));
    request.d_lse = add(s, ramp(kRows));
    request.d_entropy = add(s, ramp(kRows));
  }
  request.dlogits = room<float>(s, kRows * kVocab);
  request.dlogits_row_stride = kVocab;
  s.structures["isologit_logits_backward_request"] = &request;
  add_options(s, "isologit_backward_options", s.backward_options);
  add_report(s, "isologit_backward_report", s.backward_report);
  set_call(s, [&s](char* message, std::size_t size) {
    return isologit_backward_logits(&s.logits_backward, &s.backward_options, &s.backward_report, message, size);
  });
}

void make_kernel(Scenario& s) {
  s.name = "kernel";
  add_report(s, "isologit_kernel_info", s.kernel_info);
  set_call(s, [&s](char*, std::size_t) { return isologit_kernel(0, &s.kernel_info); });
}

}  // namespace

std::vector<std::function<std::unique_ptr<Scenario>()>> scenarios() {
  const auto fresh = [](auto make) {
    return [make] {
      auto scenario = std::make_unique<Scenario>();
      make(*scenario);
      return scenario;
    };
  };
  return {fresh([](Scenario& s) { make_score(s, false); }),
          fresh([](Scenario& s) { make_score(s, true); }),
          fresh(make_score_of_f8),
          fresh(make_party),
          fresh(make_partial),
          fresh(make_sample),
          fresh(make_sample_logits),
          fresh([](Scenario& s) { make_backward(s, Upstream::results); }),
          fresh([](Scenario& s) { make_backward(s, Upstream::logits); }),
          fresh(make_party_backward),
          fresh(make_score_logits),
          fresh([](Scenario& s) { make_backward_logits(s, Upstream::results); }),
          fresh([](Scenario& s) { make_backward_logits(s, Upstream::logits); }),
          fresh(make_kernel)};
}

}  // namespace isologit::capi_test
