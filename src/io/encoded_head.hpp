// The weight of a head as a checkpoint stores it: of a type that kernels take, or encoded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/checkpoint_files.hpp"
#include "io/hf_config.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

// Whether the type is one that a head's weight may have.
bool is_weight_dtype(std::string_view dtype);

// A matrix of such a type as the weight of a head; the scales of f8 are still to be set.
void set_weight(const Tensor& tensor, Head& head);

// The scales of an f8 weight that was set, as the quantization of the configuration has them: one for all, one a row,
// or one a block. Powers of two (F8_E8M0) become the same numbers in bf16, which `decoded` holds.
Result<void> set_scales(const CheckpointFiles::Found& scales, std::string_view module, const HfConfig& config,
                        Head& head, std::vector<std::uint16_t>& decoded);

}  // namespace isologit::detail::io
