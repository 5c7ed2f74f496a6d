// Which tensors of a checkpoint are the head: the names present decide, then the configuration's flag.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "io/hf_config.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct HeadNames {
  std::string weight;
  std::string bias;   // empty: none
  bool tied = false;  // weight is the embedding
};

// has says whether the checkpoint holds a tensor; source names it in messages. A quantised head is an error.
Result<HeadNames> choose_head(const std::function<bool(std::string_view)>& has, const HfConfig& config,
                              const std::string& source);

// The error for a head that is quantised, of which `found` is the evidence.
Error quantised_head(const std::string& source, std::string_view module, const std::string& found,
                     const HfConfig& config);

}  // namespace isologit::detail::io
