// Shapes and parameters of the operators, checked before anything is computed.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "forward/rows.hpp"
#include "tiles/overlap.hpp"

namespace isologit::detail::forward {

Result<void> validate_tensor(std::string_view name, const TensorView& x);
// One more operand of the shape and type of `x`, which is named `of`.
Result<void> validate_like(std::string_view name, const TensorView& operand, std::string_view of, const TensorView& x);
Result<void> validate_vector(std::string_view name, const VectorView& vector, std::int64_t dim);
Result<void> validate_epsilon(float epsilon);
Result<void> validate_finite(std::string_view name, float value);

// Where `shape` is stored. It may be one of `may_be` exactly, and is apart from these otherwise, and from the inputs.
Result<void> validate_output(const TensorOutput& y, const TensorView& shape,
                             std::initializer_list<const TensorView*> may_be, std::vector<tiles::Range> inputs,
                             std::string_view name = "y");
// Where the gradient of `of` is stored, if it is wanted.
Result<void> validate_gradient(std::string_view name, const TensorOutput& gradient, const TensorView& of,
                               const std::vector<tiles::Range>& inputs);

tiles::Range range_of(std::string_view name, const TensorView& x);

// All but where y lies.
Result<void> validate_attention_operands(const isologit::forward::AttentionRequest& request);
Result<void> validate_attention(const isologit::forward::AttentionRequest& request);

}  // namespace isologit::detail::forward
