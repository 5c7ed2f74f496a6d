// The rows of an input that a verb works on: their temperatures, and the ids that each row's distribution is over.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/row_options.hpp"
#include "io/captured.hpp"
#include "io/checkpoint.hpp"

namespace isologit::detail::cli {

struct InputRows {
  RowRange range;  // in the file
  MatrixView hidden;
  std::vector<float> temperatures;  // none, one for all rows, or one each

  std::size_t count() const { return static_cast<std::size_t>(hidden.rows); }
};

// The rows asked for, of what was captured in the file `input`. A temperature for all and one for each row
// of the file exclude each other; `zero` allows temperatures of 0. The rows must fit to the checkpoint's head.
Outcome<InputRows> choose_rows(const std::string& input, const io::Captured& captured, const io::Checkpoint& checkpoint,
                               const RowOptions& options, bool zero = false);

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
