// A model of wgmma for the host (cuda/wgmma.cuh), made so that mistakes are seen in the bits. Products are made when
// they are waited for, of what registers and shared memory hold then; rows are read where the bits of a descriptor say;
// products that did not begin by begin_products or do not end by end_products are lost; and copies that were not
// published have not arrived for them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "cuda/wgmma.cuh"
#include "host_sums.hpp"
#ifdef ISOLOGIT_LANES
#include "fibers.hpp"
#endif

namespace isologit::detail::cuda {

template <int WARPS>
class HostWgmma {
 public:
  Products products;

  void set_shared(void* shared, std::size_t size) {
    shared_ = static_cast<std::uint8_t*>(shared);
    unpublished_.assign((size + 15) / 16, false);
    size_ = size;
  }

  void begin_products(int warp) { group_of(warp).begun = true; }
  void end_products(int warp) {
    Warp& own = group_of(warp);
    own.ended.push_back(std::move(own.open));
    own.open.clear();
    own.begun = false;
  }
  template <int N>
  void wait_products(int warp) {
    auto& ended = group_of(warp).ended;
    while (ended.size() > N) {
      for (const auto& product : ended.front()) product();
      ended.erase(ended.begin());
    }
  }
  template <int COUNT, class R>
  void hold(R*) {}

  template <int NT, class C, class A>
  void wgmma_bytes(int warp, C c_of, A a_of, std::uint64_t hidden) {
    std::array<std::int32_t*, 32> c;
    std::array<const std::uint32_t*, 32> a;
    for (int lane = 0; lane < 32; ++lane) {
      c[static_cast<std::size_t>(lane)] = c_of(lane);
      a[static_cast<std::size_t>(lane)] = a_of(lane);
    }
    add(warp, [this, c, a, hidden] { multiply_bytes(8 * NT, c, a, hidden); });
  }

  template <class E, bool FIRST, class C>
  void wgmma_f32(int warp, C c_of, std::uint64_t weight, std::uint64_t hidden) {
    std::array<float*, 32> c;
    for (int lane = 0; lane < 32; ++lane) c[static_cast<std::size_t>(lane)] = c_of(lane);
    add(warp, [this, c, warp, weight, hidden] { multiply_f32<E, FIRST>(c, 16 * (warp % 4), weight, hidden); });
  }

  std::uint32_t address(const void* shared) const {
    return static_cast<std::uint32_t>(static_cast<const std::uint8_t*>(shared) - shared_) + kBase;
  }
  void note_copied(const void* to) {
    const std::size_t at = address(to) - kBase;
    if (at < size_) unpublished_[at / 16] = true;
  }
  void publish_copies() { unpublished_.assign(unpublished_.size(), false); }

 private:
  static constexpr std::uint32_t kBase = 1024;  // where a block's shared memory begins
  static constexpr int kRowBytes = 32;          // of a multiplication
  using Row = std::array<std::uint8_t, kRowBytes>;
  struct Warp {
    bool begun = false;
    std::vector<std::function<void()>> open;
    std::vector<std::vector<std::function<void()>>> ended;
  };
  Warp& group_of(int warp) { return warps_[static_cast<std::size_t>(warp)]; }
  void add(int warp, std::function<void()> product) {
    if (group_of(warp).begun) group_of(warp).open.push_back(std::move(product));
  }

  static std::uint8_t read(const std::uint8_t* at) {
#ifdef ISOLOGIT_LANES
    const Noticed noticed;  // of all that is done for a warp what the device reads in shared memory
#endif
    return *at;
  }

  // 32 bytes of a row that a descriptor says.
  Row row_at(std::uint64_t bits, std::uint32_t row) const {
    const auto field = [&](int from) { return static_cast<std::uint32_t>(bits >> from & 0x3FFFU) << 4; };
    const bool by_rows = bits >> 62 == static_cast<std::uint64_t>(Swizzle::k128);
    Row bytes;
    for (std::uint32_t k = 0; k < kRowBytes; ++k) {
      std::uint32_t at = field(0) + row / 8 * field(32);
      if (by_rows) {
        at += row % 8 * 128 + k;
        at ^= (at >> 7 & 7U) << 4;
      } else {
        at += row % 8 * 16 + k / 16 * field(16) + k % 16;
      }
      at -= kBase;
      bytes[k] = at < size_ && !unpublished_[at / 16] ? read(shared_ + at) : std::uint8_t{0xA5};
    }
    return bytes;
  }

  void multiply_bytes(std::uint32_t hidden_rows, const std::array<std::int32_t*, 32>& c,
                      const std::array<const std::uint32_t*, 32>& a, std::uint64_t hidden) const {
    std::array<std::array<std::int32_t, kRowBytes>, 16> weight;
    for (std::uint32_t m = 0; m < 16; ++m) {
      for (std::uint32_t k = 0; k < kRowBytes; ++k) {
        const std::uint32_t four = a[4 * (m % 8) + k % 16 / 4][2 * (k / 16) + m / 8];
        weight[m][k] = static_cast<std::int32_t>(four >> 8 * (k % 4) & 0xFFU);
      }
    }
    for (std::uint32_t n = 0; n < hidden_rows; ++n) {
      const Row b = row_at(hidden, n);
      for (std::uint32_t m = 0; m < 16; ++m) {
        const std::uint32_t lane = 4 * (m % 8) + n % 8 / 2;
        std::int32_t& sum = c[lane][4 * (n / 8) + n % 2 + 2 * (m / 8)];
        for (std::uint32_t k = 0; k < kRowBytes; ++k) sum += weight[m][k] * static_cast<std::int8_t>(b[k]);
      }
    }
  }

  template <class E, bool FIRST>
  void multiply_f32(const std::array<float*, 32>& c, int first_row, std::uint64_t weight, std::uint64_t hidden) const {
    const auto sum_of = products.wgmma_sum != nullptr ? products.wgmma_sum : products.sum;
    const auto element = [](const Row& row, std::uint32_t k) {
      return static_cast<double>(E::value(static_cast<std::uint32_t>(row[2 * k] | row[2 * k + 1] << 8)));
    };
    std::array<std::array<double, 16>, 128> hidden_rows;
    for (std::uint32_t n = 0; n < 128; ++n) {
      const Row b = row_at(hidden, n);
      for (std::uint32_t k = 0; k < 16; ++k) hidden_rows[n][k] = element(b, k);
    }
    for (std::uint32_t m = 0; m < 16; ++m) {
      const Row a = row_at(weight, static_cast<std::uint32_t>(first_row) + m);
      for (std::uint32_t n = 0; n < 128; ++n) {
        float& sum = c[4 * (m % 8) + n % 8 / 2][4 * (n / 8) + n % 2 + 2 * (m / 8)];
        double terms[16];
        for (std::uint32_t k = 0; k < 16; ++k) terms[k] = element(a, k) * hidden_rows[n][k];
        sum = sum_of(FIRST ? 0.0F : sum, terms, static_cast<int>(m));
      }
    }
  }

  std::uint8_t* shared_ = nullptr;
  std::size_t size_ = 0;
  std::vector<bool> unpublished_;
  std::array<Warp, WARPS> warps_;
};

}  // namespace isologit::detail::cuda
