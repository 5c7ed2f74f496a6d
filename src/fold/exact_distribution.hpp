// The same sums as fold/distribution.hpp in ball arithmetic of any precision: the further rounds of rows that f64 could
// not decide, and the only round of the reference kernel. The top is known beforehand, from the first round.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fold/ball_sums.hpp"
#include "fold/distribution.hpp"

namespace isologit::detail::fold {

struct ExactDistribution {
  bool wanted = true;
  float top = 0;
  std::int64_t top_id = -1;
  float second = -std::numeric_limits<float>::infinity();  // the greatest logit but that of top_id
  BallSums sums;
  exact::Ball squares;

  void absorb(const float* logits, std::int64_t count, std::int64_t first_id);
  void merge(const ExactDistribution& other);

  void write(base::ByteWriter& bytes) const;
  // Takes the sums; false when the bytes are not such a state.
  bool read(base::ByteReader& bytes);

  // The sums with the far logits accounted for.
  RelativeSums finish() const;
};

}  // namespace isologit::detail::fold
