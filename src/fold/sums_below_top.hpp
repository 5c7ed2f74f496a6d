// The fold behind derivatives: sums over the logits below a known top, at any precision. The ties at the top are
// counted apart, since what is below them decides (backward/derivative.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "base/bytes.hpp"
#include "fold/ball_sums.hpp"

namespace isologit::detail::fold {

// The same sums in units of e^-(top - second), for rows whose other logits are all kFar below the top or more.
struct NearSums {
  static constexpr double kFar = 0x1p12;
  float second = -std::numeric_limits<float>::infinity();  // the greatest logit below the top
  float third = -std::numeric_limits<float>::infinity();   // the next one that is less
  exact::Ball mass;
  exact::Ball moment;
};

// A row's sums over the logits below its top.
struct RowSums {
  std::size_t limbs = 0;  // the precision they were made with
  std::int64_t ties = 0;  // k
  bool others = false;    // whether there are logits above -inf below the top, so that epsilon > 0
  exact::Ball mass;       // epsilon
  exact::Ball moment;     // E
  NearSums near;          // made with balls only; without a mass where they are not
};

// Logits further below the top than the nearest one by more than the sums' reach only widen the radius; they are at
// most e^-reach < 2^(-92 limbs) of the nearest one's share.
class SumsBelowTop {
 public:
  SumsBelowTop(float top, std::size_t limbs) : top_(top) { sums_.limbs = limbs; }

  // Logits above the top and NaN are left out.
  void absorb(const float* logits, std::int64_t count);
  void merge(SumsBelowTop other);

  void write(base::ByteWriter& bytes) const;
  // Reads what one with the same top and limbs wrote. False when the bytes are not that.
  bool read(base::ByteReader& bytes);
  RowSums finish() const;

 private:
  void add(float z);
  // As if the near sums were in units of e^-(top - z) from now on, if z is nearer than all others.
  void move_near(float z);
  void add_near(float z, const exact::BigFloat& gap);
  void merge_near(SumsBelowTop& other);

  float top_;
  std::int64_t ties_ = 0;
  bool others_ = false;
  double nearest_ = std::numeric_limits<double>::infinity();  // the least gap so far
  BallSums sums_;
  NearSums near_;
};

}  // namespace isologit::detail::fold
