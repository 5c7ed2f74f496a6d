// How long the operators of a decoder's layer take here.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cli/bench_run.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::cli {

struct OperatorTimes {
  std::string name;  // "linear 1024 to 3072"
  std::int64_t rows;
  const kernels::Target* kernel;
  Timed timed;
};

// Of a layer on hidden rows of so many elements, in bf16: as many heads of 128 elements as these have, a quarter of as
// many of keys and values, 3 times as many features in the gated MLP; the rows are one sequence behind 512 keys. By
// each of `kernels` that is exact. `enough` and told are those of time_in_turn.
std::vector<OperatorTimes> measure_forward(std::int64_t hidden_size, std::span<const std::int64_t> rows,
                                           std::span<const kernels::Target* const> kernels, int threads, double enough,
                                           const std::function<void(double)>& told);

}  // namespace isologit::detail::cli
