// The support of a row's distribution, tile by tile.
#pragma once

#include <cstdint>

#include "isologit/status.hpp"
#include "isologit/support.hpp"

namespace isologit::detail::tiles {

Result<void> validate_support(const Support& support, std::int64_t rows, std::int64_t vocab_size);

class SupportReader {
 public:
  SupportReader(const Support& support, std::int64_t vocab_size);

  // Whether every id of every row is in the support.
  bool is_everything() const { return everything_; }

  bool contains(std::int64_t row, std::int64_t id) const;

  // How many ids the row's support has.
  std::int64_t size(std::int64_t row) const;

  // in_support[j] = 1 where id first_id + j is in the row's support, else 0, for j in [0, count).
  void fill(std::int64_t row, std::int64_t first_id, std::int64_t count, std::uint8_t* in_support) const;

 private:
  std::int64_t masked_size(std::int64_t row) const;

  const Support& support_;
  std::int64_t last_id_;
  bool everything_;
};

}  // namespace isologit::detail::tiles
