#include "dot/dot.hpp"

#include <cstdlib>
#include <string>

#include "base/text.hpp"
#include "dot/registry.hpp"
#include "exact/element.hpp"
#include "exact/logit.hpp"

namespace isologit::dot {

#define ISOLOGIT_DECLARE(name) const Kernel& name##_kernel();
ISOLOGIT_KERNELS(ISOLOGIT_DECLARE)
#undef ISOLOGIT_DECLARE

const std::vector<const Kernel*>& registry() {
#define ISOLOGIT_ENTRY(name) &name##_kernel(),
  static const std::vector<const Kernel*> list = {ISOLOGIT_KERNELS(ISOLOGIT_ENTRY)};
#undef ISOLOGIT_ENTRY
  return list;
}

Result<const Kernel*> choose(std::string_view name, Arithmetic arithmetic) {
  std::string_view origin = "kernel";
  if (name.empty()) {
    const char* forced = std::getenv("ISOLOGIT_KERNEL");
    if (forced != nullptr && *forced != '\0') {
      name = forced;
      origin = "ISOLOGIT_KERNEL";
    }
  }
  std::string known;
  for (const Kernel* kernel : registry()) {
    known += base::concat(known.empty() ? "" : ", ", kernel->name());
    if (!name.empty() && name != kernel->name()) continue;
    const std::string why_not = kernel->why_not();
    const bool fits = kernel->arithmetic() == arithmetic;
    if (fits && why_not.empty()) return kernel;
    if (name.empty()) continue;
    const std::string why = fits ? "does not run here: " + why_not
                                 : base::concat("is of ", arithmetic_name(kernel->arithmetic()), " arithmetic; ",
                                                arithmetic_name(arithmetic), " was asked for");
    return fail(StatusCode::unsupported, base::concat(origin, ": '", name, "' ", why));
  }
  return fail(StatusCode::unsupported, base::concat(origin, ": '", name, "' is unknown; known are ", known));
}

float exact_logit(const Kernel::Block& block, std::int64_t row, const WeightTile& tile, std::int64_t column) {
  const MatrixView& hidden = *block.hidden;
  const MatrixView& weight = *tile.weight;
  const std::int64_t id = tile.first + column;
  const float bias = tile.bias->data == nullptr ? 0.0F : exact::load_element(tile.bias->data, tile.bias->dtype, id);
  return static_cast<float>(exact::logit(exact::row_data(hidden, block.row_ids[row]), hidden.dtype,
                                         exact::row_data(weight, id), weight.dtype, hidden.cols, bias, exact::kF32));
}

}  // namespace isologit::dot

namespace isologit {

std::vector<KernelInfo> kernels() {
  std::vector<KernelInfo> list;
  const Result<const dot::Kernel*> exact = dot::choose("", Arithmetic::exact);
  const Result<const dot::Kernel*> fast = dot::choose("", Arithmetic::fast);
  for (const dot::Kernel* kernel : dot::registry()) {
    KernelInfo info;
    info.name = kernel->name();
    info.instruction_set = kernel->instruction_set();
    info.arithmetic = kernel->arithmetic();
    info.dtypes = {DType::bf16, DType::f16, DType::f32};
    info.why_not = kernel->why_not();
    info.runnable = info.why_not.empty();
    info.chosen = (exact && *exact == kernel) || (fast && *fast == kernel);
    list.push_back(std::move(info));
  }
  return list;
}

}  // namespace isologit
