#include "score/kernel_logits.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/aligned.hpp"
#include "tiles/low_rank_rows.hpp"

namespace isologit::testing_score {

KernelLogits kernel_logits(const std::string& kernel, const MatrixView& hidden, const MatrixView& weight,
                           const VectorView& bias, std::int64_t block_rows, std::int64_t tile_vocab, const Lora& lora) {
  const auto list = detail::kernels::registry();
  const detail::kernels::Target& chosen =
      std::find_if(list.begin(), list.end(), [&](const detail::kernels::Entry& one) {
        return one.name == kernel;
      })->target();
  const std::int64_t most_rows = block_rows == 0 ? chosen.block_rows() : std::min(block_rows, chosen.block_rows());
  const std::int64_t most_ids = tile_vocab == 0 ? chosen.tile_vocab() : std::min(tile_vocab, chosen.tile_vocab());
  KernelLogits result;
  result.values.resize(static_cast<std::size_t>(hidden.rows * weight.rows));
  detail::kernels::Counts counts;
  for (std::int64_t begin = 0; begin < hidden.rows; begin += most_rows) {
    const std::int64_t rows = std::min(most_rows, hidden.rows - begin);
    detail::base::AlignedBuffer prepared(chosen.prepared_bytes(rows, hidden.cols));
    detail::base::AlignedBuffer scratch(chosen.scratch_bytes(rows, hidden.cols));
    std::vector<std::int64_t> ids(static_cast<std::size_t>(rows));
    std::iota(ids.begin(), ids.end(), begin);
    detail::tiles::LowRankRows low_rank;
    low_rank.resize(rows, lora.a.rows);
    for (std::int64_t i = 0; i < rows; ++i) {
      low_rank.prepare(lora, hidden, begin + i, i);
      chosen.prepare(hidden, begin + i, i, rows, prepared.as<std::byte>());
    }
    const detail::kernels::Block block{&hidden, ids.data(), rows, prepared.as<std::byte>(), low_rank.data()};
    std::vector<float> tile(static_cast<std::size_t>(rows * chosen.tile_vocab()));
    for (std::int64_t first = 0; first < weight.rows; first += most_ids) {
      const std::int64_t count = std::min(most_ids, weight.rows - first);
      chosen.logits(block, {&weight, &bias, first, count, &lora.b}, tile.data(), scratch.as<std::byte>(), counts);
      for (std::int64_t i = 0; i < rows; ++i) {
        std::copy_n(tile.begin() + i * chosen.tile_vocab(), count,
                    result.values.begin() + (begin + i) * weight.rows + first);
      }
    }
  }
  result.fallbacks = counts.fallbacks;
  return result;
}

}  // namespace isologit::testing_score
