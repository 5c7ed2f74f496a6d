// The rows of an input that a verb works on, and their temperatures.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/outcome.hpp"
#include "cli/parse.hpp"
#include "io/captured.hpp"
#include "io/checkpoint.hpp"

namespace isologit::detail::cli {

struct InputRows {
  RowRange range;  // in the file
  MatrixView hidden;
  std::vector<float> temperatures;  // none, one for all rows, or one each

  std::size_t count() const { return static_cast<std::size_t>(hidden.rows); }
};

// The slice's rows of what was captured in the file `input`, or all of them. A temperature for all and one for each row
// of the file exclude each other; `zero` allows temperatures of 0. The rows must fit to the checkpoint's head.
Outcome<InputRows> choose_rows(const std::string& input, const io::Captured& captured, const io::Checkpoint& checkpoint,
                               const std::optional<RowSlice>& slice, std::optional<float> temperature, bool zero);

}  // namespace isologit::detail::cli
