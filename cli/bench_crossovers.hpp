// Where the choice of a kernel by rows should lie here: from how many hidden rows on one is faster than the next.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "isologit/head.hpp"
#include "kernels/target.hpp"

namespace isologit::detail::cli {

// A kernel's times of all tiles of one block, by rows.
struct ByRows {
  const kernels::Target* kernel;
  std::vector<double> seconds;  // one of each of kCrossoverRows
};

constexpr std::int64_t kCrossoverRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16};
constexpr std::int64_t kMostCrossoverRows = 16;

// Of the exact kernels that are compiled for an instruction set and run here, in the registry's order, without the
// choice that a block of few rows meets elsewhere. hidden has kMostCrossoverRows rows. A time is the least, since what
// disturbs the machine only adds. `enough` and told are those of time_in_turn (cli/bench_run.hpp).
std::vector<ByRows> measure_by_rows(const Head& head, const MatrixView& hidden, int threads, double enough,
                                    const std::function<void(double)>& told);

// The least rows from which on all times of the first are below those of the second; nothing where there are none.
std::optional<std::int64_t> crossover(const std::vector<double>& first, const std::vector<double>& second);

}  // namespace isologit::detail::cli
