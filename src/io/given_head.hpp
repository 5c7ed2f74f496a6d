// A head that the caller names, where config.json does not say enough or the family is not known.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "isologit/head.hpp"

namespace isologit::detail::io {

struct GivenHead {
  std::string tensor;  // the weight's name; a tensor of the same module named bias is its bias
  Transforms transforms;
  std::optional<std::int64_t> vocab_size;
};

}  // namespace isologit::detail::io
