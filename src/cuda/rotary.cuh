// Rotary embeddings: pairs of elements turned by an angle, m (a cos - b sin) and m (b cos + a sin). A warp takes a head
// of a token; what lies past the last pair is copied. In f64, then in pairs of doubles, which leave less than 2^-94 of
// the two products open. Predicted: as long as reading and writing for rows enough, 60 f64 operations an element;
// measured: not yet.
#pragma once

#include "cuda/angle.cuh"

namespace isologit::detail::cuda {

struct RotaryRequest {
  Activations x;
  const std::int64_t* positions;  // [tokens]
  const float* frequencies;       // [pairs]
  int pairs;
  bool interleaved;  // element 2j turns with 2j + 1, else j with j + pairs
  float factor;
  Results3 y;
  Status* status;
  std::int64_t count;
  int dim;
};

// factor (x cos + y sin) of finite numbers that are not both 0 and an angle that is not 0, or the mark of an open one.
ISOLOGIT_DEVICE float settled_turn(double factor, double x, double y, const Turn<Pair>& turn, int type) {
  const Pair first = multiply(turn.cosine, {x, 0.0});
  const Pair second = multiply(turn.sine, {y, 0.0});
  const Pair value = multiply(add(first, second), {factor, 0.0});
  // Sines, cosines and products are within 2^-97 of themselves, sum and product with the factor within 2^-103.
  const double error = (fabs(first.hi) + fabs(second.hi)) * fabs(factor) * 0x1p-95;
  const float low = round_sum(value.hi, value.lo - error, type);
  return low == round_sum(value.hi, value.lo + error, type) ? low : open_mark();  // never with NaN
}

// The same of an angle below 2^-45, with which the result is factor x, exactly, but for next to nothing: factor times
// angle (y - angle x / 2), and a share of angle^2 / 6 of what these two are.
ISOLOGIT_DEVICE float settled_next_to_none(double factor, double x, double y, const Pair& angle, int type) {
  const Pair first = multiply(angle, {-0.5 * x, 0.0});
  const Pair more = multiply(multiply(angle, add({y, 0.0}, first)), {factor, 0.0});
  const double error = (fabs(y) + fabs(first.hi)) * angle.hi * fabs(factor) * 0x1p-88;
  const float low = round_sum({factor * x, 0.0}, {more.hi, more.lo - error}, type);
  return low == round_sum({factor * x, 0.0}, {more.hi, more.lo + error}, type) ? low : open_mark();
}

// The same of any numbers.
ISOLOGIT_DEVICE float turned(double factor, double x, double y, std::int64_t position, float frequency, int type) {
  const auto special = [&](double cosine, double sine) { return round_once(factor * (x * cosine + y * sine), type); };
  if (position == 0 || frequency == 0 || (x == 0 && y == 0) || factor == 0) return special(1.0, 0.0);
  const Turn<Pair> turn = turn_of(position, frequency);
  if (is_finite(x) && is_finite(y)) {
    const float found = settled_turn(factor, x, y, turn, type);
    const Pair angle = product_of(static_cast<double>(position), static_cast<double>(frequency));
    return is_open(found) && angle.hi < 0x1p-45 ? settled_next_to_none(factor, x, y, angle, type) : found;
  }
  if (!is_finite(turn.cosine.hi) || !is_finite(turn.sine.hi)) return open_mark();
  return special(turn.cosine.hi > 0 ? 1.0 : -1.0, turn.sine.hi > 0 ? 1.0 : -1.0);
}

template <class BlockType>
struct Rotary {
  using Block = BlockType;
  using Args = RotaryRequest;
  static constexpr int kBlocksPerProcessor = 1;
  struct Shared {};

  ISOLOGIT_DEVICE static void run(Block& block, Shared&, const RotaryRequest& p, int index, int) {
    block.each_warp([&](int warp) {
      const std::int64_t place = static_cast<std::int64_t>(index) * Block::kWarps + warp;
      if (place >= p.count) return;
      const auto row = static_cast<int>(place);
      const std::int64_t from = p.x.rows.offset_of(row), to = p.y.rows.offset_of(row);
      const std::int64_t position = p.positions[row / p.x.rows.heads];
      const bool is_position = position >= 0 && position < std::int64_t{1} << 31;
      block.each_lane([&](int lane) {
        if (!is_position && lane == 0) block.count(p.status->wrong);
        ISOLOGIT_ROLLED
        for (int j = lane; j < p.pairs; j += 32) turn_pair(block, p, from, to, j, is_position ? position : 0);
        for (int i = 2 * p.pairs + lane; i < p.dim; i += 32) {
          p.y.store(to + i, round_once(p.x.at(from + i), p.y.type));
        }
      });
    });
  }

 private:
  ISOLOGIT_DEVICE static void turn_pair(Block& block, const RotaryRequest& p, std::int64_t from, std::int64_t to, int j,
                                        std::int64_t position) {
    const float frequency = p.frequencies[j];
    if (!(frequency >= 0 && frequency <= 1)) {
      block.count(p.status->wrong);
      return;
    }
    const int one = p.interleaved ? 2 * j : j;
    const int two = p.interleaved ? 2 * j + 1 : j + p.pairs;
    const double a = p.x.at(from + one), b = p.x.at(from + two);
    const auto factor = static_cast<double>(p.factor);
    const Turn<double> turn = turn_near(position, static_cast<double>(frequency));
    // Two products with errors of 2^-50 and a rounding, their sum, and the product with the factor.
    const double error = (fabs(a) + fabs(b)) * (fabs(factor) * 0x1.8p-50);
    const Ends first = ends_of(factor * (a * turn.cosine - b * turn.sine), error, p.y.type);
    const Ends second = ends_of(factor * (b * turn.cosine + a * turn.sine), error, p.y.type);
    const float settled[] = {first.agree() ? first.low : turned(factor, a, -b, position, frequency, p.y.type),
                             second.agree() ? second.low : turned(factor, b, a, position, frequency, p.y.type)};
    ISOLOGIT_UNROLL
    for (int n = 0; n < 2; ++n) {
      if (is_open(settled[n])) block.count(p.status->open);
      p.y.store(to + (n == 0 ? one : two), settled[n]);  // an open one as NaN
    }
  }
};

template <class Launcher>
void launch_rotary(Launcher& launcher, const RotaryRequest& r) {
  using Four = typename Launcher::template Block<4>;
  launcher.template launch<Rotary<Four>>(static_cast<int>((r.count + Four::kWarps - 1) / Four::kWarps), 1, r);
}

}  // namespace isologit::detail::cuda
