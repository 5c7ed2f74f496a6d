// The calls of which instructions.py counts the instructions: for each kernel in its arguments, tiles of logits, a
// whole score and gradients. Prints the name of each call before it, and "NAME: not run: REASON" for a kernel that this
// processor has not.
#include <array>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/aligned.hpp"
#include "isologit/backward.hpp"
#include "isologit/score.hpp"
#include "kernels/target.hpp"

// What is counted is what happens inside: instructions.py asks for this name.
extern "C" __attribute__((noinline)) void counted_call(const std::function<void()>& call) { call(); }

namespace isologit {
namespace {

constexpr std::int64_t kSize = 768;
constexpr std::int64_t kVocab = 256;

void count(const std::string& name, const std::function<void()>& call) {
  call();  // what a first call sets up is not counted
  std::puts(name.c_str());
  counted_call(call);
}

// Rows of numbers in [-1, 1), the same everywhere.
struct Matrix {
  std::vector<std::uint16_t> halves;
  std::vector<float> floats;
  MatrixView view;

  Matrix(std::int64_t rows, DType dtype, unsigned seed) {
    std::mt19937 random(seed);
    for (std::int64_t i = 0; i < rows * kSize; ++i) {
      const auto bits = static_cast<std::uint32_t>(random());
      floats.push_back(static_cast<float>(static_cast<std::int32_t>(bits)) * 0x1p-31F);
      // Of bf16 and f16 alike: any sign, some exponent between 2^-6 and 2^-1, any mantissa.
      const std::uint32_t mantissa = dtype == DType::bf16 ? 7 : 10;
      const std::uint32_t exponent = (dtype == DType::bf16 ? 121 : 9) + (bits >> 16) % 6;
      const std::uint32_t fraction = bits & ((1U << mantissa) - 1);
      halves.push_back(static_cast<std::uint16_t>((bits >> 31) << 15 | exponent << mantissa | fraction));
    }
    const void* data = halves.data();
    if (dtype == DType::f32) data = floats.data();
    view = {data, dtype, rows, kSize, kSize};
  }
};

void count_tile(const detail::kernels::Target& kernel, DType dtype, std::int64_t rows) {
  const Matrix hidden(rows, dtype, 1);
  const Matrix weight(kernel.tile_vocab(), dtype, 2);
  detail::base::AlignedBuffer prepared(kernel.prepared_bytes(rows, kSize));
  detail::base::AlignedBuffer scratch(kernel.scratch_bytes(rows, kSize));
  std::vector<float> logits(static_cast<std::size_t>(rows * kernel.tile_vocab()));
  std::vector<std::int64_t> ids(static_cast<std::size_t>(rows));
  std::iota(ids.begin(), ids.end(), 0);
  for (const std::int64_t i : ids) kernel.prepare(hidden.view, i, i, rows, prepared.as<std::byte>());
  const detail::kernels::Block block{&hidden.view, ids.data(), rows, prepared.as<std::byte>()};
  const VectorView bias{};
  detail::kernels::Counts counts;
  count(std::string(kernel.name()) + ", a tile of " + std::string(dtype_name(dtype)) + ", rows " + std::to_string(rows),
        [&] {
          kernel.logits(block, {&weight.view, &bias, 0, kernel.tile_vocab()}, logits.data(), scratch.as<std::byte>(),
                        counts);
        });
}

// What may fail has no reason to here; if it does, the name says so and is not one that is known.
void count_verb(const std::string& name, const std::function<bool()>& call) {
  bool done = true;
  count(name, [&] { done = call(); });
  if (!done) std::puts((name + " failed").c_str());
}

void count_verbs(const detail::kernels::Target& kernel, std::int64_t rows) {
  const std::string name(kernel.name());
  const auto n = static_cast<std::size_t>(rows);
  const Matrix hidden(rows, DType::bf16, 3);
  const Matrix weight(kVocab, DType::bf16, 4);
  Head head;
  head.weight = weight.view;
  head.vocab_size = kVocab;
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < rows; ++i) ids.push_back(i * 7 % kVocab);
  std::array<std::vector<float>, 3> floats;
  for (std::vector<float>& one : floats) one.resize(n);
  std::array<std::vector<std::int64_t>, 2> places;
  for (std::vector<std::int64_t>& one : places) one.resize(n);

  ScoreRequest request;
  request.hidden = hidden.view;
  request.token_ids = ids;
  request.logprobs = floats[0].data();
  request.lse = floats[1].data();
  request.entropy = floats[2].data();
  request.argmax = places[0].data();
  request.rank = places[1].data();
  ScoreOptions options;
  options.threads = 1;
  options.kernel = name;
  options.arithmetic = kernel.arithmetic();
  count_verb(name + ", score", [&] { return isologit::score(head, request, options).has_value(); });

  const std::vector<float> upstream(n, -1 / static_cast<float>(rows));
  std::vector<float> dhidden(n * kSize);
  std::vector<float> dweight(static_cast<std::size_t>(kVocab * kSize));
  BackwardRequest backward;
  backward.hidden = hidden.view;
  backward.token_ids = ids;
  backward.d_logprobs = upstream.data();
  backward.dhidden = {dhidden.data(), DType::f32, kSize};
  backward.dweight = {dweight.data(), DType::f32, kSize};
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::exact}) {
    BackwardOptions of;
    of.arithmetic = arithmetic;
    of.logits = kernel.arithmetic();
    of.threads = 1;
    of.kernel = name;
    count_verb(name + ", " + std::string(arithmetic_name(arithmetic)) + " gradients",
               [&] { return isologit::backward(head, backward, of).has_value(); });
  }
}

}  // namespace
}  // namespace isologit

int main(int count, char** names) {
  using isologit::DType;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  for (int i = 1; i < count; ++i) {
    for (const isologit::detail::kernels::Entry& entry : isologit::detail::kernels::registry()) {
      if (entry.name != names[i]) continue;
      if (const std::string why_not = entry.why_not(); !why_not.empty()) {
        std::printf("%s: not run: %s\n", names[i], why_not.c_str());
        continue;
      }
      const isologit::detail::kernels::Target& kernel = entry.target();
      for (const std::int64_t rows : {1, 4, 16}) isologit::count_tile(kernel, DType::bf16, rows);
      for (const DType dtype : {DType::f16, DType::f32}) isologit::count_tile(kernel, dtype, 4);
      isologit::count_verbs(kernel, 16);
    }
  }
  return 0;
}
