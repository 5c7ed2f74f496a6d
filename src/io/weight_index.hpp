// model.safetensors.index.json: which file of a sharded checkpoint holds which tensor.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// Tensor name to file name, relative to the index's own directory.
using WeightIndex = std::map<std::string, std::string, std::less<>>;

// A file name that is absolute, or has a component "..", is an error. source names the document in messages.
Result<WeightIndex> parse_weight_index(std::string_view text, const std::string& source);
Result<WeightIndex> read_weight_index(const std::string& path);

}  // namespace isologit::detail::io
