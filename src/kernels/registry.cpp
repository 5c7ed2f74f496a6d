#include "kernels/registry.hpp"

#include <cstdlib>
#include <string>

#include "base/cpu.hpp"
#include "base/text.hpp"
#include "exact/element.hpp"
#include "exact/logit.hpp"
#include "exact/superaccumulator.hpp"

namespace isologit::detail::kernels {

#define ISOLOGIT_DECLARE(name, ...) const Target& name##_target(const Entry& entry);
ISOLOGIT_TARGETS(ISOLOGIT_DECLARE)
#undef ISOLOGIT_DECLARE

namespace {

std::string needs_nothing() { return {}; }
#if defined(__x86_64__)
std::string needs_avx2() {
  return base::cpu().avx2_fma && base::cpu().f16c ? "" : "the processor has no AVX2 with FMA and F16C";
}
std::string needs_avx512() { return base::cpu().avx512 ? "" : "the processor has no AVX-512 (F, BW, DQ, VL)"; }
std::string needs_avx512_vnni() {
  return base::cpu().avx512 && base::cpu().avx512_vnni ? "" : "the processor has no AVX512-VNNI";
}
std::string needs_avx512_bf16() { return base::cpu().avx512_bf16 ? "" : "the processor has no AVX512-BF16"; }
std::string needs_tiles() { return base::request_amx() ? "" : "the system refuses leave to use the AMX tiles"; }
std::string needs_amx_int8() {
  return base::cpu().avx512 && base::cpu().amx_int8 ? needs_tiles() : "the processor has no AMX-INT8";
}
std::string needs_amx_bf16() {
  return base::cpu().avx512 && base::cpu().amx_bf16 ? needs_tiles() : "the processor has no AMX-BF16";
}
#endif

}  // namespace

#if defined(__x86_64__)
Loops avx512_loops() {
  Loops loops = avx512_plain_loops();
  if (base::cpu().avx512_bf16) loops.bf16 = &avx512_bf16_pass();
  return loops;
}

Loops amx_loops() {
  Loops loops = avx512_loops();
  if (base::cpu().amx_bf16) loops.parts = &amx_part_loops();
  if (base::cpu().amx_bf16 && base::cpu().avx512_bf16) loops.bf16 = &amx_bf16_pass();
  return loops;
}
#endif

Target::~Target() = default;

std::span<const Entry> registry() {
#define ISOLOGIT_ENTRY(name, instruction_set, arithmetic, block_rows, tile_vocab, from_rows, why_not) \
  {#name, instruction_set, Arithmetic::arithmetic, k_##name##_shape, from_rows, why_not, name##_target},
  static constexpr Entry list[] = {ISOLOGIT_TARGETS(ISOLOGIT_ENTRY)};
#undef ISOLOGIT_ENTRY
  return list;
}

const Entry* best(std::span<const Entry> entries, Arithmetic arithmetic) {
  for (const Entry& entry : entries) {
    if (entry.arithmetic == arithmetic && entry.why_not().empty()) return &entry;
  }
  return nullptr;
}

const Entry& for_rows(std::span<const Entry> entries, const Entry& chosen, std::int64_t rows) {
  if (rows >= chosen.from_rows) return chosen;
  bool after = false;
  for (const Entry& entry : entries) {
    after = after || entry.name == chosen.name;
    if (after && entry.arithmetic == chosen.arithmetic && entry.shape.tile_vocab == chosen.shape.tile_vocab &&
        rows >= entry.from_rows && entry.why_not().empty()) {
      return entry;
    }
  }
  return chosen;
}

const Target& for_rows(const Target& chosen, std::int64_t rows) {
  const Entry& entry = for_rows(registry(), chosen.entry(), rows);
  return &entry == &chosen.entry() ? chosen : entry.target();
}

Result<const Target*> choose(std::string_view name, Arithmetic arithmetic) {
  std::string_view origin = "kernel";
  if (name.empty()) {
    const char* forced = std::getenv("ISOLOGIT_KERNEL");
    if (forced != nullptr && *forced != '\0') {
      name = forced;
      origin = "ISOLOGIT_KERNEL";
    }
  }
  if (name.empty()) return &best(registry(), arithmetic)->target();
  std::string known;
  for (const Entry& entry : registry()) {
    known += base::concat(known.empty() ? "" : ", ", entry.name);
    if (name != entry.name) continue;
    const std::string why_not = entry.why_not();
    const bool fits = entry.arithmetic == arithmetic;
    if (fits && why_not.empty()) return &entry.target();
    const std::string why = fits ? "does not run here: " + why_not
                                 : base::concat("is of ", arithmetic_name(entry.arithmetic), " arithmetic; ",
                                                arithmetic_name(arithmetic), " was asked for");
    return fail(StatusCode::unsupported, base::concat(origin, ": '", name, "' ", why));
  }
  return fail(StatusCode::unsupported, base::concat(origin, ": '", name, "' is unknown; known are ", known));
}

float exact_logit(const Block& block, std::int64_t row, const WeightTile& tile, std::int64_t column) {
  const MatrixView& hidden = *block.hidden;
  const MatrixView& weight = *tile.weight;
  const std::int64_t id = tile.first + column;
  const float bias = tile.bias->data == nullptr ? 0.0F : exact::load_element(tile.bias->data, tile.bias->dtype, id);
  const void* row_of_hidden = exact::row_data(hidden, block.row_ids[row]);
  const void* row_of_weight = exact::row_data(weight, id);
  if (block.low_rank == nullptr) {
    return static_cast<float>(
        exact::logit(row_of_hidden, hidden.dtype, row_of_weight, weight.dtype, hidden.cols, bias, exact::kF32));
  }
  const exact::LowRankTerms low_rank{*block.low_rank[row].factors, exact::row_data(*tile.b, id), tile.b->dtype};
  return static_cast<float>(
      exact::logit(row_of_hidden, hidden.dtype, row_of_weight, weight.dtype, hidden.cols, bias, low_rank, exact::kF32));
}

float exact_sum(const double* terms, std::int64_t count) {
  exact::Sum sum;
  for (std::int64_t i = 0; i < count; ++i) sum.add(terms[i]);
  return static_cast<float>(sum.round(exact::kF32));
}

}  // namespace isologit::detail::kernels

namespace isologit {

std::vector<KernelInfo> kernels() {
  std::vector<KernelInfo> list;
  const Result<const detail::kernels::Target*> exact = detail::kernels::choose("", Arithmetic::exact);
  const Result<const detail::kernels::Target*> fast = detail::kernels::choose("", Arithmetic::fast);
  for (const detail::kernels::Entry& entry : detail::kernels::registry()) {
    KernelInfo info;
    info.name = entry.name;
    info.instruction_set = entry.instruction_set;
    info.arithmetic = entry.arithmetic;
    info.dtypes = {DType::bf16, DType::f16, DType::f32};
    info.why_not = entry.why_not();
    info.runnable = info.why_not.empty();
    const auto is_it = [&](const Result<const detail::kernels::Target*>& one) {
      return one && (*one)->name() == entry.name;
    };
    info.chosen = is_it(exact) || is_it(fast);
    list.push_back(std::move(info));
  }
  return list;
}

}  // namespace isologit
