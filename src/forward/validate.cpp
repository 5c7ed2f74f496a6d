#include "forward/validate.hpp"

#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "base/text.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::forward {
namespace {

using tiles::invalid;

constexpr std::int64_t kMostElements = std::numeric_limits<std::int64_t>::max() / 64;

bool reaches_far(std::int64_t count, std::int64_t stride) {
  return count > 1 && std::abs(stride) > kMostElements / count;
}

}  // namespace

Result<void> validate_tensor(std::string_view name, const TensorView& x) {
  if (x.tokens < 0 || x.heads < 1 || x.dim < 1 || x.dim > kMostElements) {
    return invalid(base::concat(name, ": shape [", x.tokens, ", ", x.heads, ", ", x.dim,
                                "]; expected at least 0 tokens, 1 head and 1 element"));
  }
  for (const std::int64_t stride : {x.token_stride, x.head_stride}) {
    if (stride == std::numeric_limits<std::int64_t>::min() || reaches_far(x.tokens, stride) ||
        reaches_far(x.heads, stride)) {
      return invalid(base::concat(name, ": a stride of ", stride, " elements for ", x.tokens, " tokens of ", x.heads,
                                  " heads reaches past the address space"));
    }
  }
  if (x.data == nullptr && x.tokens > 0) {
    return invalid(base::concat(name, ": no data for ", x.tokens, " tokens"));
  }
  return {};
}

Result<void> validate_like(std::string_view name, const TensorView& operand, std::string_view of, const TensorView& x) {
  if (auto checked = validate_tensor(name, operand); !checked) return checked;
  if (operand.tokens != x.tokens || operand.heads != x.heads || operand.dim != x.dim) {
    return invalid(base::concat(name, ": shape [", operand.tokens, ", ", operand.heads, ", ", operand.dim,
                                "]; expected that of ", of, ", [", x.tokens, ", ", x.heads, ", ", x.dim, "]"));
  }
  if (operand.dtype != x.dtype) {
    return invalid(
        base::concat(name, ": ", dtype_name(operand.dtype), "; expected the type of ", of, ", ", dtype_name(x.dtype)));
  }
  return {};
}

Result<void> validate_vector(std::string_view name, const VectorView& vector, std::int64_t dim) {
  if (vector.data == nullptr && vector.size == 0) return {};
  if (vector.data == nullptr || vector.size != dim) {
    return invalid(base::concat(name, ": ", vector.size,
                                vector.data == nullptr ? " elements without data" : " elements", "; expected ", dim));
  }
  return {};
}

Result<void> validate_epsilon(float epsilon) {
  if (epsilon >= 0 && !std::isinf(epsilon)) return {};
  return invalid(base::concat("epsilon: ", epsilon, "; expected a finite number of at least 0"));
}

Result<void> validate_finite(std::string_view name, float value) {
  if (std::isfinite(value)) return {};
  return invalid(base::concat(name, ": ", value, "; expected a finite number"));
}

tiles::Range range_of(std::string_view name, const TensorView& x) {
  if (x.tokens == 0 || x.data == nullptr) return {name, 0, 0};
  const auto size = static_cast<std::int64_t>(dtype_size(x.dtype));
  std::int64_t low = 0;
  std::int64_t high = x.dim;
  for (const std::int64_t reach : {(x.tokens - 1) * x.token_stride, (x.heads - 1) * x.head_stride}) {
    (reach < 0 ? low : high) += reach;
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(x.data);
  return {name, begin + static_cast<std::uintptr_t>(low * size), begin + static_cast<std::uintptr_t>(high * size)};
}

Result<void> validate_output(const TensorOutput& y, const TensorView& shape,
                             std::initializer_list<const TensorView*> may_be, std::vector<tiles::Range> inputs,
                             std::string_view name) {
  const TensorView out{y.data, shape.dtype, shape.tokens, shape.heads, shape.dim, y.token_stride, y.head_stride};
  if (auto checked = validate_tensor(name, out); !checked) return checked;
  const bool heads_apart = shape.heads == 1 || y.head_stride >= shape.dim;
  const std::int64_t token = shape.heads == 1 ? shape.dim : (shape.heads - 1) * y.head_stride + shape.dim;
  // Tokens beside each other, or heads of all tokens beside each other.
  const bool tokens_apart = shape.tokens <= 1 || y.token_stride >= token ||
                            (y.token_stride >= shape.dim && shape.heads > 1 &&
                             y.head_stride >= (shape.tokens - 1) * y.token_stride + shape.dim);
  if (!heads_apart || !tokens_apart) {
    return invalid(base::concat(name, ": strides of ", y.token_stride, " and ", y.head_stride, " elements for ",
                                shape.tokens, " tokens of ", shape.heads, " heads of ", shape.dim,
                                "; its rows would overlap"));
  }
  for (const TensorView* operand : may_be) {
    const bool same = operand->data == y.data && operand->token_stride == y.token_stride &&
                      (operand->head_stride == y.head_stride || operand->heads == 1);
    if (!same) inputs.push_back(range_of("an operand", *operand));
  }
  const std::array outputs{range_of(name, out)};
  return tiles::check_apart(outputs, inputs);
}

Result<void> validate_gradient(std::string_view name, const TensorOutput& gradient, const TensorView& of,
                               const std::vector<tiles::Range>& inputs) {
  if (gradient.data == nullptr) return {};
  return validate_output(gradient, of, {}, inputs, name);
}

}  // namespace isologit::detail::forward
