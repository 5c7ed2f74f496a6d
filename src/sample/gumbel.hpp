// The fold behind a draw: the argmax of z - ln(-ln u) over what it is given (CONTRACT.md 4).
//
// The first random word of an id puts its Gumbel number g = -ln(-ln u) into an interval. Kept are the contenders: those
// whose z + g may reach the best lower bound so far. Only at the end, or when there are too many, does a contender's
// second word enter; what f64 cannot tell apart even then is compared in ball arithmetic of growing precision.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "kernels/draw.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::sample {

// Holds a Gumbel number.
struct GumbelRange {
  double low;
  double high;
};
GumbelRange gumbel_range(std::uint32_t first);
GumbelRange gumbel_range(std::uint32_t first, std::uint32_t second);

struct Pick {
  std::int64_t id = -1;
  float logit = 0;
};

class Contenders {
 public:
  explicit Contenders(const kernels::Draw& draw = {}) : draw_(draw) {}

  // logits[j] is that of id first_id + j, padded as loops.hpp says. NaN and infinite logits take no part: rows that
  // have them in the wrong place draw nothing.
  void absorb(const kernels::FoldLoops& loops, const float* logits, std::int64_t count, std::int64_t first_id);
  void offer(float logit, std::int64_t id);
  void merge(const Contenders& other);

  void write(base::ByteWriter& bytes) const;
  // Merges what another one with the same draw wrote. False when the bytes are not that.
  bool merge_read(base::ByteReader& bytes);

  // The winner of all that was absorbed or offered; at least one was.
  Pick pick();

  std::int64_t second_words() const { return second_words_; }
  bool exact() const { return exact_; }  // whether wider arithmetic than f64 was needed

 private:
  struct Contender {
    float logit;
    std::int64_t id;
    std::uint32_t first;
    std::uint32_t second;
    bool has_second;
    GumbelRange gumbel;
  };

  void consider(const Contender& contender);
  bool beaten(const Contender& contender) const;
  void rise(const Contender& contender);
  void drop_beaten();
  void reduce();
  void draw_second_words();
  void compare_exactly();

  kernels::Draw draw_;
  std::vector<Contender> list_;
  float best_logit_ = 0;  // with best_low_: the best lower bound
  double best_low_ = 0;
  std::int64_t second_words_ = 0;
  bool exact_ = false;
};

}  // namespace isologit::detail::sample
