// Requests of the C interface with operands of any bits, and now and then a field of any value: a status with a
// message, or results that the reference kernel gives too. What a caller has to get right, how large its buffers are,
// is right here.
#include <isologit/isologit.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "fuzz/input.hpp"

namespace {

using isologit::fuzz::Input;

constexpr std::size_t kMessageBytes = 200;

// The outputs of a call, so that two calls can be compared; each is exactly as large as it must be.
struct Outputs {
  std::vector<std::vector<unsigned char>> buffers;

  template <class T>
  void give(T*& to, bool wanted, std::int64_t count) {
    if (!wanted) return;
    buffers.emplace_back(static_cast<std::size_t>(std::max<std::int64_t>(count, 0)) * sizeof(T) + 1);
    to = reinterpret_cast<T*>(buffers.back().data());
  }
  void clear() {
    for (auto& buffer : buffers) std::fill(buffer.begin(), buffer.end(), std::uint8_t{0});
  }
};

// What all requests have in common.
struct Operands {
  std::int64_t rows, vocab, size;
  int dtype;
  std::vector<unsigned char> hidden, weight, bias;
  std::vector<float> temperatures, scales;
  std::vector<std::int64_t> offsets, ids, token_ids;

  explicit Operands(Input& input)
      : rows(input.between(0, 4)),
        vocab(input.between(1, 9)),
        size(input.between(1, 5)),
        dtype(static_cast<int>(input.between(0, 2))),
        hidden(input.several<unsigned char>(rows * size * bytes())),
        weight(input.several<unsigned char>(vocab * size * bytes())),
        bias(input.several<unsigned char>(input.flip() ? vocab * bytes() : 0)) {
    for (std::int64_t row = 0; row < rows; ++row) {
      temperatures.push_back(input.flip() ? 0.5F : input.take<float>());
      token_ids.push_back(input.field<std::int64_t>(input.between(0, vocab - 1)));
    }
    for (std::int64_t block = 0; block < (vocab + 1) / 2; ++block) scales.push_back(input.take<float>());
    offsets.push_back(0);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t id = 0; id < vocab; ++id) {
        if (input.flip()) ids.push_back(id);
      }
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
  }
  std::int64_t bytes() const { return dtype == ISOLOGIT_F32 ? 4 : 2; }

  isologit_matrix matrix(Input& input, const std::vector<unsigned char>& data, std::int64_t count) const {
    // Rows may lie backwards, so a stride of -1 is as good as any; one that leaves what pointers span is not.
    const std::int64_t stride = input.field(size);
    return {data.data(), input.size(count), input.size(size), stride == -1 ? size : stride, input.field(dtype)};
  }
  // Of one factor or of as many as hidden is long, from what the weight is made of.
  void add_lora(Input& input, isologit_lora& lora) const {
    const std::int64_t rank = input.flip() ? 1 : std::min(size, vocab);
    lora.a = {weight.data(), input.size(rank), input.size(size), size, input.field(dtype)};
    lora.b = {weight.data(), input.size(vocab), input.size(rank), size, input.field(dtype)};
    lora.scale = input.flip() ? 0.5 : input.take<double>();
  }
  // The weight's bytes as f8, with scales for blocks of two rows.
  void encode(Input& input, isologit_head& head) const {
    head.encoded = head.weight.data;
    head.weight.data = nullptr;
    head.weight.dtype = ISOLOGIT_F32;
    head.encoding = input.field(static_cast<std::int32_t>(input.between(ISOLOGIT_F8_E4M3, ISOLOGIT_F8_E5M2)));
    head.f8_product = input.field(static_cast<std::int32_t>(input.between(0, 1)));
    head.f8_scales = {scales.data(), input.size((vocab + 1) / 2), 1, 1, ISOLOGIT_F32};
    head.f8_block_rows = input.field<std::int64_t>(2);
    head.f8_block_cols = input.field<std::int64_t>(0);
    head.f8_first_row = input.field<std::int64_t>(0);
  }
  isologit_head head(Input& input) const {
    isologit_head head{};
    head.struct_size = sizeof head;
    head.weight = matrix(input, weight, vocab);
    if (!bias.empty()) head.bias = {bias.data(), input.size(vocab), dtype};
    head.vocab_size = input.field(input.between(1, vocab));
    head.has_softcap = input.flip() ? 1 : 0;
    head.softcap = input.flip() ? 2.0F : input.take<float>();
    head.scale_kind = input.field(static_cast<std::int32_t>(input.between(0, 2)));
    head.scale = input.flip() ? 0.5F : input.take<float>();
    if (input.flip()) add_lora(input, head.lora);
    if (input.take<std::uint8_t>() % 4 == 3) encode(input, head);
    return head;
  }

  // The members that requests over rows share.
  template <class Request>
  void fill(Input& input, Request& request) const {
    request.struct_size = sizeof request;
    request.hidden = matrix(input, hidden, rows);
    if (input.flip()) {
      request.temperatures = temperatures.data();
      request.temperature_count = input.field(rows > 0 && input.flip() ? std::int64_t{1} : rows);
      request.temperature_count = std::min(request.temperature_count, std::max<std::int64_t>(rows, 0));
    }
    request.has_range = input.flip() ? 1 : 0;
    request.first_id = input.field(input.between(0, vocab - 1));
    request.last_id =
        input.field(input.between(request.first_id >= 0 && request.first_id < vocab ? request.first_id : 0, vocab));
    for (isologit_id_lists* lists : {&request.kept, &request.banned}) {
      if (input.flip()) *lists = {offsets.data(), ids.data()};
    }
  }
};

// Calls twice, the second time by the reference kernel: either one refuses what the other does, or the bits agree.
template <class Options, class Call>
void run(Input& input, Outputs& outputs, Options options, Call&& call) {
  options.struct_size = sizeof options;
  options.threads = input.field(static_cast<std::int32_t>(input.between(0, 3)));
  const bool odd_threads = options.threads < 0 || options.threads > 3;
  char message[kMessageBytes] = "";
  outputs.clear();
  const isologit_status status = call(&options, message);
  if (status < ISOLOGIT_OK || status > ISOLOGIT_CANCELLED) std::abort();
  if ((status != ISOLOGIT_OK) != (message[0] != '\0')) std::abort();
  if (odd_threads && status == ISOLOGIT_OK) std::abort();
  if (status != ISOLOGIT_OK) return;
  const auto first = outputs.buffers;
  outputs.clear();
  options.threads = 1;
  options.kernel = "reference";
  if (call(&options, message) != ISOLOGIT_OK) std::abort();
  if (first != outputs.buffers) std::abort();
}

void score(Input& input) {
  const Operands operands(input);
  const isologit_head head = operands.head(input);
  isologit_score_request request{};
  operands.fill(input, request);
  const std::int64_t n = operands.rows;
  Outputs outputs;
  outputs.buffers.reserve(16);
  if (input.flip()) request.token_ids = operands.token_ids.data();
  for (float** output : {&request.logprobs, &request.lse, &request.entropy, &request.raw_logprobs, &request.sum_p2,
                         &request.log_kept, &request.mean_logits}) {
    outputs.give(*output, input.flip(), n);
  }
  outputs.give(request.argmax, input.flip(), n);
  outputs.give(request.rank, input.flip(), n);
  if (input.flip()) {
    request.top_k = input.field(input.between(1, 12));
    const std::int64_t room = request.top_k > 0 && request.top_k <= 12 ? request.top_k : 0;
    outputs.give(request.top_k_ids, input.flip(), n * room);
    outputs.give(request.top_k_logprobs, input.flip(), n * room);
  }
  if (input.flip()) {
    request.ids_per_row = input.size(1);
    request.ids = operands.token_ids.data();
    outputs.give(request.ids_logprobs, input.flip(), n);
  }
  if (input.flip()) {
    request.logits_dtype = input.field(static_cast<std::int32_t>(input.between(0, 2)));
    request.logits_count = input.size(operands.vocab);
    request.logits_first_id = input.field(std::int64_t{0});
    request.logits_row_stride = input.field(operands.vocab);
    float* room = nullptr;
    outputs.give(room, true, n * operands.vocab);
    request.logits = room;
  }
  std::vector<std::int64_t> list(static_cast<std::size_t>(n));
  std::iota(list.begin(), list.end(), 0);
  if (input.flip()) {
    request.row_list = list.data();
    request.row_count = input.size(n);
  }
  run(input, outputs, isologit_score_options{}, [&](const isologit_score_options* options, char* message) {
    return isologit_score(&head, &request, options, nullptr, message, kMessageBytes);
  });
}

void sample(Input& input) {
  const Operands operands(input);
  const isologit_head head = operands.head(input);
  isologit_sample_request request{};
  operands.fill(input, request);
  const std::int64_t n = operands.rows;
  Outputs outputs;
  outputs.buffers.reserve(8);
  const auto seeds = input.several<std::uint64_t>(1);
  const auto positions = input.several<std::uint32_t>(std::max<std::int64_t>(n, 1));
  const std::vector<float> cuts = {input.flip() ? 0.25F : input.take<float>()};
  const std::vector<std::int64_t> top_k = {input.field(input.between(0, 10))};
  const std::int64_t one = input.size(1);
  request.seeds = request.sequence_ids = seeds.data();
  request.seed_count = request.sequence_id_count = one;
  request.positions = positions.data();
  request.position_count = input.size(n > 0 ? n : 1);
  if (input.flip()) request.min_p = cuts.data(), request.min_p_count = input.size(1);
  if (input.flip()) request.top_p = cuts.data(), request.top_p_count = input.size(1);
  if (input.flip()) request.top_k = top_k.data(), request.top_k_count = input.size(1);
  outputs.give(request.ids, input.flip(), n);
  for (float** output : {&request.logprobs, &request.cut_logprobs, &request.log_kept_cut}) {
    outputs.give(*output, input.flip(), n);
  }
  run(input, outputs, isologit_score_options{}, [&](const isologit_score_options* options, char* message) {
    return isologit_sample(&head, &request, options, nullptr, message, kMessageBytes);
  });
}

void backward(Input& input) {
  const Operands operands(input);
  const isologit_head head = operands.head(input);
  isologit_backward_request request{};
  operands.fill(input, request);
  const std::int64_t n = operands.rows;
  Outputs outputs;
  outputs.buffers.reserve(8);
  const auto upstream = input.several<float>(n);
  const auto dense = input.several<float>(input.flip() ? n * operands.vocab : 0);
  request.token_ids = input.flip() ? operands.token_ids.data() : nullptr;
  request.ids_per_row = input.size(1);
  for (const float** from : {&request.d_logprobs, &request.d_lse, &request.d_entropy, &request.d_mean_logits}) {
    if (input.flip()) *from = upstream.data();
  }
  if (!dense.empty()) {
    request.d_logits = dense.data();
    const std::int64_t stride = input.field(operands.vocab);
    if (stride > operands.vocab && stride < (std::int64_t{1} << 40)) return;
    request.d_logits_row_stride = stride == -1 ? operands.vocab : stride;  // as of a matrix above
  }
  const auto gradient = [&](isologit_gradient& to, std::int64_t rows, std::int64_t columns) {
    float* room = nullptr;
    outputs.give(room, input.flip(), rows * columns);
    to = {room, input.field(columns), input.field(static_cast<std::int32_t>(input.between(0, 2))),
          input.flip() ? 1 : 0};
  };
  gradient(request.dhidden, n, operands.size);
  gradient(request.dweight, operands.vocab, operands.size);
  gradient(request.dbias, 1, operands.vocab);
  const std::int64_t most_rank = std::min(operands.size, operands.vocab);
  gradient(request.dlora_a, most_rank, operands.size);
  gradient(request.dlora_b, operands.vocab, most_rank);
  isologit_backward_options options{};
  options.has_arithmetic = 1;
  options.arithmetic = ISOLOGIT_EXACT;
  run(input, outputs, options, [&](const isologit_backward_options* with, char* message) {
    return isologit_backward(&head, &request, with, nullptr, message, kMessageBytes);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  switch (input.take<std::uint8_t>() % 3) {
    case 0: score(input); break;
    case 1: sample(input); break;
    default: backward(input);
  }
  return 0;
}
