// The words of cuda/block.cuh for the host: a block is its warps in a loop, a warp its 32 lanes in a loop. The products
// of a warp are a plain loop of fused multiply-adds, or whatever a test puts in their place.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "cuda/block.cuh"
#include "host_copies.hpp"
#include "host_wgmma.hpp"

namespace isologit::detail::cuda {

template <int WARPS>
class HostBlock : public HostWgmma<WARPS> {
 public:
  static constexpr int kWarps = WARPS;
  static constexpr int kThreads = 32 * WARPS;

  // Nothing is set before a kernel sets it, as on a device: what it forgets is seen by the sanitizers or in the bits.
  template <class T>
  struct PerThread {
    std::unique_ptr<std::array<std::array<T, 32>, WARPS>> all = [] {
      auto made = std::make_unique_for_overwrite<std::array<std::array<T, 32>, WARPS>>();
      std::memset(static_cast<void*>(made.get()), 0xA5, sizeof *made);
      return made;
    }();
    T& operator()(int warp, int lane) { return (*all)[static_cast<std::size_t>(warp)][static_cast<std::size_t>(lane)]; }
  };
  template <class T>
  struct PerLane {
    std::array<T, 32> all;
    PerLane() { std::memset(static_cast<void*>(&all), 0xA5, sizeof all); }
    T& operator()(int lane) { return all[static_cast<std::size_t>(lane)]; }
  };

  template <class F>
  void each_warp(F f) {
    for (int warp = 0; warp < WARPS; ++warp) f(warp);
  }
  template <class F>
  void each_lane(F f) {
    for (int lane = 0; lane < 32; ++lane) f(lane);
  }
  void sync() {}
  int anew(int x) { return x; }
  void sync_warp() {}

  template <class C, class A, class B>
  void mma(C c_of, A a_of, B b_of) {
    const auto fma = this->products.fma;
    double a[16][16], b[8][16];
    for (int k = 0; k < 16; ++k) {
      for (int row = 0; row < 16; ++row) a[row][k] = a_of(4 * (row % 8) + k % 4)[2 * (k / 4) + row / 8];
      for (int column = 0; column < 8; ++column) b[column][k] = b_of(4 * column + k % 4)[k / 4];
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        double& c = c_of(4 * (row % 8) + column / 2)[column % 2 + 2 * (row / 8)];
        for (int k = 0; k < 16; ++k) c = fma(a[row][k], b[column][k], c);
      }
    }
  }

  template <class E, class C, class A, class B>
  void mma_f32(C c_of, A a_of, B b_of) {
    const auto element = [](std::uint32_t two, int k) {
      return static_cast<double>(E::value(k % 2 == 0 ? two & 0xFFFFU : two >> 16));
    };
    double a[16][16], b[8][16];
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2;
      for (int row = 0; row < 16; ++row) a[row][k] = element(a_of(4 * (row % 8) + t)[2 * (k / 8) + row / 8], k);
      for (int column = 0; column < 8; ++column) b[column][k] = element(b_of(4 * column + t)[k / 8], k);
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        float& c = c_of(4 * (row % 8) + column / 2)[column % 2 + 2 * (row / 8)];
        double terms[16];
        for (int k = 0; k < 16; ++k) terms[k] = a[row][k] * b[column][k];
        c = this->products.sum(c, terms, row);
      }
    }
  }

  // Rows lie at multiples of 16 bytes, and those of a tile in different banks: else it is right, and as slow as
  // several.
  template <bool TURNED, class To, class From>
  void load_tiles(To to_of, From from_of) {
    std::array<std::array<std::uint16_t, 8>, 32> rows;
    std::array<std::uint32_t, 4> banks = {};  // of 16 bytes
    for (int lane = 0; lane < 32; ++lane) {
      std::memcpy(&rows[static_cast<std::size_t>(lane)], from_of(lane), sizeof rows[0]);
      const auto at = reinterpret_cast<std::uintptr_t>(from_of(lane));
      if (at % 16 == 0) banks[static_cast<std::size_t>(lane / 8)] |= 1U << at / 16 % 8;
    }
    meets_in_banks_ = meets_in_banks_ || banks != std::array<std::uint32_t, 4>{0xFF, 0xFF, 0xFF, 0xFF};
    const auto element = [&](int tile, int row, int column) {
      return std::uint32_t{rows[static_cast<std::size_t>(8 * tile + row)][static_cast<std::size_t>(column)]};
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4;
      const int t = lane % 4;
      for (int q = 0; q < 4; ++q) {
        to_of(lane)[q] = TURNED ? element(q, 2 * t, g) | element(q, 2 * t + 1, g) << 16
                                : element(q, g, 2 * t) | element(q, g, 2 * t + 1) << 16;
      }
    }
  }

  template <class C, class A, class B>
  void mma_bytes(C c_of, A a_of, B b_of) {
    const auto byte = [](std::uint32_t four, int k, bool has_sign) {
      const auto bits = static_cast<std::int32_t>(four >> 8 * (k % 4) & 0xFFU);
      return has_sign && bits > 127 ? bits - 256 : bits;
    };
    std::int32_t a[16][32], b[8][32];
    for (int k = 0; k < 32; ++k) {
      const int t = k % 16 / 4;
      for (int row = 0; row < 16; ++row) a[row][k] = byte(a_of(4 * (row % 8) + t)[2 * (k / 16) + row / 8], k, false);
      for (int column = 0; column < 8; ++column) b[column][k] = byte(b_of(4 * column + t)[k / 16], k, true);
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        std::int32_t& c = c_of(4 * (row % 8) + column / 2)[column % 2 + 2 * (row / 8)];
        for (int k = 0; k < 32; ++k) c += a[row][k] * b[column][k];  // past 31 bits the sanitizer says so
      }
    }
  }

  template <class X, class Merge>
  void reduce(X x_of, int from, int below, Merge merge_into) {
    using T = std::remove_reference_t<decltype(x_of(0))>;
    for (int distance = from; distance < below; distance *= 2) {
      std::array<T, 32> before;
      for (int lane = 0; lane < 32; ++lane) before[static_cast<std::size_t>(lane)] = x_of(lane);
      for (int lane = 0; lane < 32; ++lane) merge_into(x_of(lane), before[static_cast<std::size_t>(lane ^ distance)]);
    }
  }

  template <class F>
  std::uint32_t ballot(F f) {
    std::uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= f(lane) ? std::uint32_t{1} << lane : 0U;
    return bits;
  }
  template <class F>
  bool first(F f) {
    return f(0);
  }

  void add_to(unsigned long long& digit, std::uint64_t x) { digit += x; }
  void count(std::uint32_t& counter) { ++counter; }
  std::uint32_t take(std::uint32_t& counter) { return counter++; }

  void copy(void* shared, const void* from) { copies_.begin(shared, from, true); }
  void copy_or_zero(void* shared, const void* from, bool there) { copies_.begin(shared, from, there); }
  void end_group() { copies_.end_group(); }
  template <int N>
  void wait() {
    copies_.wait(N, [this](const void* place) { this->note_copied(place); });
  }

  bool meets_in_banks() const { return meets_in_banks_; }

  // What is fetched must be there.
  void fetch_line(const void* at) { static_cast<void>(*static_cast<const volatile char*>(at)); }

  // Runs the kernel before, if it has not run yet (HostLauncher).
  void after_previous() {
    if (previous != nullptr && *previous) std::exchange(*previous, nullptr)();
  }
  std::function<void()>* previous = nullptr;

 private:
  HostCopies copies_{kThreads};
  bool meets_in_banks_ = false;
};

}  // namespace isologit::detail::cuda
