// The fold behind top-k: the k first of a row in the order of CONTRACT.md 3, logits descending, equal ones by
// ascending id, NaN before everything by ascending id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "kernels/fold_loops.hpp"

namespace isologit::detail::fold {

struct Candidate {
  float logit;
  std::int64_t id;
};

// Whether a stands before b in that order.
bool before(const Candidate& a, const Candidate& b);

class TopK {
 public:
  explicit TopK(std::int64_t k) : k_(static_cast<std::size_t>(k)) {}

  // logits[j] is that of id first_id + j; with `support`, only those with support[j] != 0 count. O(k) memory; a tile
  // without a logit above the k-th costs one vector pass.
  void absorb(const kernels::FoldLoops& loops, const float* logits, const std::uint8_t* support, std::int64_t count,
              std::int64_t first_id);
  void merge(const TopK& other);

  void write(base::ByteWriter& bytes) const;
  // False when the bytes are not such a state.
  bool read(base::ByteReader& bytes);

  // In order; fewer than k when the support has fewer.
  std::vector<Candidate> sorted() const;

 private:
  void insert(const Candidate& candidate);

  std::size_t k_;
  std::vector<Candidate> heap_;  // the last in order at the front
};

}  // namespace isologit::detail::fold
