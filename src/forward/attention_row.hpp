// One row of attention by its definition.
#pragma once

#include <cstdint>
#include <vector>

#include "exact/ball.hpp"
#include "forward/keys.hpp"

namespace isologit::detail::forward {

// The output of one query and head, element by element. Scores are rational numbers and kept as such; their
// exponentials are balls, made wider for all elements when one needs it.
class AttentionRow {
 public:
  AttentionRow(const AttentionRequest& request, std::int64_t sequence, std::int64_t token, std::int64_t head);

  float result(std::int64_t d);

 private:
  struct Key {
    std::int64_t index;
    exact::BigFloat score;  // before softcap; its distance to others is exact
    int group;              // keys of equal scores share one, in descending order of scores
  };

  void read_scores(const float* q);
  void group_keys();
  exact::Ball score_of(const exact::BigFloat& score, std::size_t limbs) const;
  // e^(score - origin) for each group from `first` on; `origin` is the greatest of them, or -1 where the sink is.
  std::vector<exact::Ball> weights_from(int origin, std::size_t first, std::size_t limbs, exact::Ball& sink) const;
  // `first`, or -1 where the sink is greater.
  int origin_of(std::size_t first) const;
  void widen(std::size_t limbs);
  double value_of(const Key& key, std::int64_t d) const;
  int side_of(double boundary, std::int64_t d) const;

  const AttentionRequest& request_;
  const Keys keys_;
  std::int64_t sequence_;
  std::int64_t token_;
  std::int64_t kv_head_;
  bool nan_ = false;  // the whole row
  bool has_sink_ = false;
  double sink_ = 0;
  std::vector<Key> seen_;                // those that weigh something
  std::vector<exact::BigFloat> groups_;  // their scores
  std::size_t limbs_ = 0;                // of the weights below
  std::vector<exact::Ball> weights_;
  exact::Ball total_;
};

}  // namespace isologit::detail::forward
