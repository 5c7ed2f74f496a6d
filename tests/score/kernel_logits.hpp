// A kernel's logits before any transform, tile by tile, as the streaming loop drives it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/target.hpp"

namespace isologit::testing_score {

struct KernelLogits {
  std::vector<float> values;  // [hidden.rows, weight.rows]
  std::int64_t fallbacks = 0;
};
// block_rows and tile_vocab: at most so many rows a block and ids a tile; 0: as many as the kernel takes.
KernelLogits kernel_logits(const std::string& kernel, const MatrixView& hidden, const MatrixView& weight,
                           const VectorView& bias, std::int64_t block_rows = 0, std::int64_t tile_vocab = 0,
                           const Lora& lora = {});

}  // namespace isologit::testing_score
