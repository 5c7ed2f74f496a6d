// The floating-point environment the library computes in, whatever its caller has set.
#pragma once

#include <cstdint>
#if !defined(__SSE2__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace isologit::detail::base {

// While one lives, its thread rounds to nearest, keeps subnormals (no flush-to-zero, no denormals-are-zero) and masks
// every floating-point exception. The destructor restores the thread's former control and status bits exactly, so
// neither modes nor flags of the caller change. On x86 these are MXCSR and the control word of the x87: the library
// does not compute on the x87, but the C library's strtod and printf round as that word says.
//
// A compiler may move plain arithmetic across the constructor: compute in a function called within the scope.
class FpEnvironment {
 public:
  FpEnvironment() {
    save();
    enter();
  }
  ~FpEnvironment() { restore(); }
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

  // Runs the caller's own code as if none lived: in the former modes, and the modes that it leaves behind are those
  // that the destructor restores. On the thread of this object.
  template <class Call>
  auto outside(Call call) {
    const Outside outside(*this);
    return call();
  }

 private:
  void save();
  static void enter();
  void restore() const;
  struct Outside {
    explicit Outside(FpEnvironment& from) : environment(from) { environment.restore(); }
    ~Outside() {
      environment.save();
      environment.enter();
    }
    Outside(const Outside&) = delete;
    Outside& operator=(const Outside&) = delete;
    FpEnvironment& environment;
  };

#if defined(__SSE2__)
  std::uint32_t mxcsr_;
  std::uint16_t x87_control_;
#elif defined(__aarch64__)
  std::uint64_t fpcr_;
  std::uint64_t fpsr_;
#else
  std::fenv_t environment_;
#endif
};

}  // namespace isologit::detail::base
