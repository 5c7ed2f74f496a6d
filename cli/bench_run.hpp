// Measuring: the ceilings of the machine, and the time of calls.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/target.hpp"

namespace isologit::detail::cli {

// Bytes per second at which `threads` threads read memory in turn; the best of a few passes.
double read_rate(std::span<const std::byte> memory, int threads);

// Floating-point operations per second of the kernel's own multiply-adds on `threads` threads, out of registers, the
// best of up to 20 passes in `enough` seconds; 0 when it has none.
double multiply_add_rate(const kernels::Target& kernel, int threads, double enough);

// "AMD EPYC 7763"
std::string processor_name();

// A call to be timed, and the times it took.
struct Timed {
  std::function<void()> call;
  std::vector<double> seconds;  // ascending

  double median() const;
};

// Times all calls in turn, again and again, so that what disturbs the machine meets all of them alike: at least 3
// times each, then up to 9 times or until a call's own times add up to `enough` seconds. told(share) is called between
// calls.
void time_in_turn(std::vector<Timed>& calls, double enough, const std::function<void(double)>& told);

}  // namespace isologit::detail::cli
