#include "base/fp_env.hpp"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace isologit::detail::base {

#if defined(__SSE2__)

namespace {

// The states a process starts in: all exceptions masked, no flags, round to nearest; MXCSR: neither FTZ nor DAZ;
// x87: 64-bit significands.
constexpr std::uint32_t default_mxcsr = 0x1F80;
constexpr std::uint16_t default_x87_control = 0x037F;

std::uint16_t read_x87_control() {
  std::uint16_t value = 0;
  asm volatile("fnstcw %0" : "=m"(value)::"memory");
  return value;
}

void write_x87_control(std::uint16_t value) { asm volatile("fldcw %0" ::"m"(value) : "memory"); }

}  // namespace

void FpEnvironment::save() {
  mxcsr_ = _mm_getcsr();
  x87_control_ = read_x87_control();
}

void FpEnvironment::enter() {
  _mm_setcsr(default_mxcsr);
  write_x87_control(default_x87_control);
}

void FpEnvironment::restore() const {
  write_x87_control(x87_control_);
  _mm_setcsr(mxcsr_);
}

#elif defined(__aarch64__)

namespace {

std::uint64_t read_fpcr() {
  std::uint64_t value = 0;
  asm volatile("mrs %0, fpcr" : "=r"(value)::"memory");
  return value;
}

std::uint64_t read_fpsr() {
  std::uint64_t value = 0;
  asm volatile("mrs %0, fpsr" : "=r"(value)::"memory");
  return value;
}

void write_fpcr(std::uint64_t value) { asm volatile("msr fpcr, %0" ::"r"(value) : "memory"); }

void write_fpsr(std::uint64_t value) { asm volatile("msr fpsr, %0" ::"r"(value) : "memory"); }

}  // namespace

void FpEnvironment::save() {
  fpcr_ = read_fpcr();
  fpsr_ = read_fpsr();
}

// All zero: round to nearest, no flushing, NaNs kept, no traps, IEEE half precision.
void FpEnvironment::enter() { write_fpcr(0); }

void FpEnvironment::restore() const {
  write_fpcr(fpcr_);
  write_fpsr(fpsr_);
}

#else

void FpEnvironment::save() { std::fegetenv(&environment_); }

void FpEnvironment::enter() { std::fesetenv(FE_DFL_ENV); }

void FpEnvironment::restore() const { std::fesetenv(&environment_); }

#endif

}  // namespace isologit::detail::base
