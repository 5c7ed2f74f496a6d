// The support of each row that a verb works on, from the input's lists of ids and --vocab.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/outcome.hpp"
#include "cli/parse.hpp"
#include "io/captured.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

struct RowSupport {
  RowRange ids;  // of the vocabulary
  io::ListedIds kept;
  io::ListedIds banned;

  Support view() const;
  // "ids 0 to 999, kept ids of the input"; empty when nothing is left out.
  std::string text(std::int64_t vocab_size) const;
};

// The supports of the rows `range` of what was captured in the file `input`.
Outcome<RowSupport> choose_support(const std::string& input, const io::Captured& captured, const RowRange& range,
                                   std::int64_t vocab_size, const std::optional<RowSlice>& vocab);

}  // namespace isologit::detail::cli
