// What the host has in place of tensor cores: plain products, and models of their f32 sums. They are functions that a
// launcher is given, so that the kernels are compiled once for all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace isologit::detail::cuda {

// A model of a tensor core's f32 sums: BLOCK products at a time and c are aligned to the greatest of them, cut off BITS
// below the last place of f32, added, and the sum cut to f32.
template <int BLOCK, int BITS>
struct TruncatedSums {
  static float sum(float c, const double* products, int /*row*/ = 0) {
    for (int k = 0; k < 16; k += BLOCK) c = block_of(c, products + k);
    return c;
  }

 private:
  static float block_of(float c, const double* products) {
    double plain = static_cast<double>(c);
    int greatest = -200;
    const auto see = [&](double x) {
      if (x != 0 && std::isfinite(x)) greatest = std::max(greatest, std::ilogb(x));
    };
    see(plain);
    for (int k = 0; k < BLOCK; ++k) {
      see(products[k]);
      plain += products[k];
    }
    if (!std::isfinite(plain)) return static_cast<float>(plain);
    const double unit = std::ldexp(1.0, std::max(greatest, -126) - 23 - BITS);
    double units = std::trunc(static_cast<double>(c) / unit);
    for (int k = 0; k < BLOCK; ++k) units += std::trunc(products[k] / unit);
    const double sum = units * unit;
    const auto near = static_cast<float>(sum);
    return std::fabs(static_cast<double>(near)) > std::fabs(sum) ? std::nextafterf(near, 0.0F) : near;
  }
};

struct Products {
  double (*fma)(double a, double b, double c) = std::fma;
  // c and 16 products, for a row of a tile, as sm_90 is said to sum them.
  float (*sum)(float c, const double* products, int row) = TruncatedSums<16, 2>::sum;
  float (*wgmma_sum)(float c, const double* products, int row) = nullptr;  // by wgmma; null: as `sum`
};

}  // namespace isologit::detail::cuda
