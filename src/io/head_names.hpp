// Which tensors of a checkpoint are the head, by what is known of the family and by the names that are present. What
// would change the head and is not known is an error, and so is a quantised head.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "io/hf_config.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct HeadNames {
  std::string weight;
  std::string bias;    // empty: none
  bool tied = false;   // weight is the embedding
  std::string scales;  // of an f8 weight; empty: none
};

using TensorNames = std::set<std::string, std::less<>>;

// names are the checkpoint's tensors; source names it in messages. config has a family.
Result<HeadNames> choose_head(const TensorNames& names, const HfConfig& config, const std::string& source);

// The tensors of a head that the caller names.
Result<HeadNames> given_head(const TensorNames& names, const GivenHead& given, const std::string& source);

// The error for a head that is quantised, of which `found` is the evidence.
Error quantised_head(const std::string& source, std::string_view module, const std::string& found,
                     const HfConfig& config);

// "lm_head" of "lm_head.weight".
std::string_view module_of(std::string_view tensor);

}  // namespace isologit::detail::io
