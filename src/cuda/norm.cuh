// RMSNorm, x g / sqrt(mean x^2 + epsilon), g = w or 1 + w. One block a row, or one warp of a short row.
//
// In f64, u = 2^-53: the sum of squares, all exact and positive, is within (additions of a chain) u of itself; the
// division by H, the sum with epsilon, the root (half of what came before) and the reciprocal round once each, and so
// do 1 + w and the two products. What that leaves open lies between two neighbours of the type, and which of them it is
// is told by squares, all of them exact: with b the middle of the two and Q = sum x^2 + H epsilon, x^2 g^2 H is more,
// less or as much as b^2 Q. Q is an integer, made once for the row, so nothing is ever open.
// Predicted: H = 4096 of one row 3 us, most of it the launch and two reductions; measured: not yet.
#pragma once

#include "cuda/accumulator.cuh"
#include "cuda/activations.cuh"
#include "cuda/pairs.cuh"

namespace isologit::detail::cuda {

struct RmsNormRequest {
  Activations x;
  const void* weight;  // [dim], or null
  int weight_type;
  float epsilon;
  bool one_plus_weight;
  Results3 y;
  std::int64_t count;
  int dim;

  ISOLOGIT_DEVICE double weight_of(int i) const {
    return weight != nullptr ? static_cast<double>(element_value(weight, weight_type, i)) : 1.0;
  }
  ISOLOGIT_DEVICE bool adds_one() const { return one_plus_weight && weight != nullptr; }
};

// Of a row.
struct RowRoot {
  double mean, factor;  // factor: 1 / sqrt(mean)
  double error;         // of x factor g, of itself
};

// `additions`: of the longest chain that the sum of squares is made by.
ISOLOGIT_DEVICE RowRoot root_of(double squares, int dim, float epsilon, int additions) {
  RowRoot root;
  root.mean = squares / dim + static_cast<double>(epsilon);
  root.factor = 1.0 / sqrt(root.mean);
  root.error = ((additions + 3) * 1.01 + 10) * 0x1p-53;
  return root;
}

// IEEE's special value of the definition's operations in their order.
ISOLOGIT_DEVICE float special_norm(double x, double g, const RowRoot& root, int type) {
  return round_once(x * g / sqrt(root.mean), type);
}

// The last of the middle of two neighbours of a type: half a place beyond the greatest number.
ISOLOGIT_DEVICE double past_greatest(int type) {
  return type == kF16 ? 65520.0 : type == kBf16 ? 0x1.FFp127 : 0x1.FFFFFFp127;
}

// Which of two neighbours x g sqrt(dim / Q) rounds to; `exact`, carried, is Q.
ISOLOGIT_DEVICE float told_by_squares(const Ends& ends, double x, double w, bool adds_one, int dim,
                                      const Accumulator& exact, int type) {
  const bool low_is_near = fabsf(ends.low) < fabsf(ends.high);
  const float near = low_is_near ? ends.low : ends.high;
  const float far = low_is_near ? ends.high : ends.low;
  const double size = fabs(static_cast<double>(far));
  const double middle = is_finite(size) ? 0.5 * (fabs(static_cast<double>(near)) + size) : past_greatest(type);
  WideAccumulator side = {};
  const auto take = [&](double term) {
    accumulate<WideAccumulator>(term, [&](int digit, std::uint64_t part) { side.digit[digit] += part; });
  };
  const auto take_product = [&](double a, double b) {
    const Pair product = product_of(a, b);
    take(product.hi);
    take(product.lo);
  };
  const Pair squares = product_of(x * x, static_cast<double>(dim));
  const double parts[] = {squares.hi, squares.lo};
  for (const double part : parts) {
    take_product(part, w * w);
    if (adds_one) {
      take_product(part, 2 * w);
      take(part);
    }
  }
  const double square = middle * middle;
  for (int i = 0; i < Accumulator::kDigits; ++i) {
    const auto digit = static_cast<double>(static_cast<std::uint32_t>(exact.digit[i]));
    if (digit != 0.0) take_product(-digit * power_of_two(32 * i + Accumulator::kLowest), square);
  }
  carry(side);
  if (static_cast<std::int64_t>(side.digit[WideAccumulator::kDigits - 1]) < 0) return near;
  for (int i = 0; i < WideAccumulator::kDigits; ++i) {
    if (side.digit[i] != 0) return far;
  }
  const std::uint32_t last = type == kF32 ? bit_cast<std::uint32_t>(near) : narrow_bits(near, type);
  return (last & 1U) == 0 ? near : far;
}

template <class BlockType>
struct RmsNorm {
  using Block = BlockType;
  using Args = RmsNormRequest;
  static constexpr int kBlocksPerProcessor = 1;

  struct Shared {
    double squares[Block::kWarps];
    std::uint32_t open;
    Accumulator exact;  // Q
  };

  ISOLOGIT_DEVICE static void run(Block& block, Shared& shared, const RmsNormRequest& p, int row, int) {
    const std::int64_t from = p.x.rows.offset_of(row);
    sum_squares(block, shared, p, from);
    // No result is stored before it is known that none asks for the row once more.
    each_element(block, shared, p, [&](int i, const RowRoot& root) {
      if (is_open(result(shared, p, from + i, i, root, false))) block.count(shared.open);
    });
    block.sync();
    const bool has_exact = shared.open != 0;
    if (has_exact) sum_exactly(block, shared, p, from);
    const std::int64_t to = p.y.rows.offset_of(row);
    each_element(block, shared, p, [&](int i, const RowRoot& root) {
      p.y.store(to + i, result(shared, p, from + i, i, root, has_exact));
    });
  }

 private:
  // Once the sum of squares is there.
  template <class Use>
  ISOLOGIT_DEVICE static void each_element(Block& block, const Shared& shared, const RmsNormRequest& p, Use use) {
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        double squares = 0.0;
        for (int i = 0; i < Block::kWarps; ++i) squares += shared.squares[i];
        const int additions = (p.dim + Block::kThreads - 1) / Block::kThreads + 5 + Block::kWarps;
        const RowRoot root = root_of(squares, p.dim, p.epsilon, additions);
        ISOLOGIT_ROLLED
        for (int i = 32 * warp + lane; i < p.dim; i += Block::kThreads) use(i, root);
      });
    });
  }

  ISOLOGIT_DEVICE static void sum_squares(Block& block, Shared& shared, const RmsNormRequest& p, std::int64_t from) {
    block.each_warp([&](int warp) {
      typename Block::template PerLane<double> sum;
      block.each_lane([&](int lane) {
        double own = 0.0;
        for (int i = 32 * warp + lane; i < p.dim; i += Block::kThreads) {
          const double x = p.x.at(from + i);
          own += x * x;
        }
        sum(lane) = own;
      });
      block.reduce([&](int lane) -> double& { return sum(lane); }, 1, 32, [](double& a, double b) { a += b; });
      block.each_lane([&](int lane) {
        if (lane == 0) shared.squares[warp] = sum(lane);
        if (warp == 0 && lane == 0) shared.open = 0;
      });
    });
    block.sync();
  }

  ISOLOGIT_DEVICE static void sum_exactly(Block& block, Shared& shared, const RmsNormRequest& p, std::int64_t from) {
    const auto add = [&](int digit, std::uint64_t part) { block.add_to(shared.exact.digit[digit], part); };
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp == 0 && lane < Accumulator::kDigits) shared.exact.digit[lane] = 0;
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        ISOLOGIT_ROLLED
        for (int i = 32 * warp + lane; i < p.dim; i += Block::kThreads) {
          const double x = p.x.at(from + i);
          accumulate(x * x, add);  // finite, as a row that is not leaves nothing open
        }
      });
    });
    block.sync();
    block.each_warp([&](int warp) {
      block.each_lane([&](int lane) {
        if (warp != 0 || lane != 0) return;
        accumulate(static_cast<double>(p.epsilon) * p.dim, add);
        carry(shared.exact);
      });
    });
    block.sync();
  }

  // Or the mark of an open one, where Q is not known.
  ISOLOGIT_DEVICE static float result(const Shared& shared, const RmsNormRequest& p, std::int64_t at, int i,
                                      const RowRoot& root, bool has_exact) {
    const double x = p.x.at(at);
    const double w = p.weight_of(i);
    const double g = p.adds_one() ? 1 + w : w;
    if (!is_finite(root.mean) || root.mean == 0 || !is_finite(w)) return special_norm(x, g, root, p.y.type);
    const double value = x * (root.factor * g);
    const Ends ends = ends_of(value, fabs(value) * root.error, p.y.type);
    if (ends.agree()) return ends.low;
    return has_exact ? told_by_squares(ends, x, w, p.adds_one(), p.dim, shared.exact, p.y.type) : open_mark();
  }
};

// From how many elements on a row has a block.
inline constexpr int kLongRow = 1024;
template <class Launcher>
void launch_rms_norm(Launcher& launcher, const RmsNormRequest& r) {
  const int rows = static_cast<int>(r.count);
  if (r.dim >= kLongRow) {
    launcher.template launch<RmsNorm<typename Launcher::template Block<8>>>(rows, 1, r);
  } else {
    launcher.template launch<RmsNorm<typename Launcher::template Block<1>>>(rows, 1, r);
  }
}

}  // namespace isologit::detail::cuda
