#include "fold/sums_below_top.hpp"

#include <algorithm>

namespace isologit::detail::fold {
namespace {

using exact::Ball;
using exact::BigFloat;

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

}  // namespace

void SumsBelowTop::absorb(const float* logits, std::int64_t count) {
  for (std::int64_t j = 0; j < count; ++j) {
    if (logits[j] == top_) {
      ++ties_;
    } else if (logits[j] < top_ && logits[j] > kMinusInf) {
      add(logits[j]);
    }
  }
}

void SumsBelowTop::add(float z) {
  others_ = true;
  const double distance = static_cast<double>(top_) - static_cast<double>(z);
  if (nearest_ < 0x1p50 && distance > nearest_ + reach(sums_.limbs)) {
    ++sums_.far;
    near_.third = std::max(near_.third, z);
    return;
  }
  nearest_ = std::min(nearest_, distance);
  const BigFloat gap = gap_below(top_, z);
  sums_.add(gap);
  if (nearest_ >= NearSums::kFar) add_near(z, gap);
}

void SumsBelowTop::move_near(float z) {
  if (!(z > near_.second)) return;
  if (near_.second > kMinusInf) {
    const Ball factor = exp_minus(gap_below(z, near_.second), sums_.limbs);
    near_.mass = exact::multiply(near_.mass, factor, sums_.limbs);
    near_.moment = exact::multiply(near_.moment, factor, sums_.limbs);
  }
  near_.third = near_.second;
  near_.second = z;
}

void SumsBelowTop::add_near(float z, const BigFloat& gap) {
  move_near(z);
  if (z < near_.second) near_.third = std::max(near_.third, z);
  const Ball term = z == near_.second ? Ball::exact(1) : exp_minus(gap_below(near_.second, z), sums_.limbs);
  near_.mass = exact::add(near_.mass, term, sums_.limbs);
  near_.moment = exact::add(near_.moment, exact::multiply(term, Ball{gap, {}}, sums_.limbs), sums_.limbs);
}

void SumsBelowTop::merge(SumsBelowTop other) {
  ties_ += other.ties_;
  others_ = others_ || other.others_;
  nearest_ = std::min(nearest_, other.nearest_);
  sums_.merge(other.sums_);
  if (nearest_ >= NearSums::kFar) merge_near(other);
}

void SumsBelowTop::merge_near(SumsBelowTop& other) {
  if (other.near_.second == kMinusInf) return;
  if (near_.second == kMinusInf) {
    near_ = other.near_;
    return;
  }
  move_near(other.near_.second);
  other.move_near(near_.second);
  const auto below = [&](float z) { return z < near_.second ? z : kMinusInf; };
  near_.third = std::max(below(near_.third), below(other.near_.third));
  near_.mass = exact::add(near_.mass, other.near_.mass, sums_.limbs);
  near_.moment = exact::add(near_.moment, other.near_.moment, sums_.limbs);
}

void SumsBelowTop::write(base::ByteWriter& bytes) const {
  bytes.put(ties_);
  bytes.put(others_);
  bytes.put(nearest_);
  bytes.put(sums_.far);
  bytes.put(near_.second);
  bytes.put(near_.third);
  for (const Ball* sum : {&sums_.mass, &sums_.moment, &near_.mass, &near_.moment}) exact::write(*sum, bytes);
}

bool SumsBelowTop::read(base::ByteReader& bytes) {
  unsigned char others = 0;
  bool read = bytes.get_count(ties_) && bytes.get(others) && bytes.get(nearest_) && bytes.get_count(sums_.far) &&
              bytes.get(near_.second) && bytes.get(near_.third);
  for (Ball* sum : {&sums_.mass, &sums_.moment, &near_.mass, &near_.moment}) read = read && exact::read(bytes, *sum);
  others_ = others != 0;
  return read && nearest_ > 0 && near_.second < top_ && near_.third <= near_.second;
}

RowSums SumsBelowTop::finish() const {
  RowSums total{sums_.limbs, ties_, others_, sums_.mass, sums_.moment, near_};
  if (nearest_ < NearSums::kFar) total.near = {};
  if (sums_.far == 0) return total;
  // x e^-x falls, so a far logit's part of the moment is at most its gap's least value times e^-that.
  const exact::Bound nearest_term = exact::magnitude(exp_minus(BigFloat::from_double(nearest_), 3));
  const exact::Bound one = exact::Bound::power_of_two(0);
  const auto widen = [&](Ball& sum, double times, const exact::Bound& unit) {
    const exact::Bound bound = unit * exact::Bound::of(BigFloat::from_double(static_cast<double>(sums_.far) * times)) *
                               exact::Bound::power_of_two(far_exponent(sums_.limbs));
    sum.radius = sum.radius + bound;
  };
  widen(total.mass, 1, nearest_term);
  widen(total.moment, nearest_ + reach(sums_.limbs) + 1, nearest_term);
  widen(total.near.mass, 1, one);
  widen(total.near.moment, nearest_ + reach(sums_.limbs) + 1, one);
  return total;
}

}  // namespace isologit::detail::fold
