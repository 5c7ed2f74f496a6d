// Where a model is: a local directory, or an id in the local Hugging Face cache. Nothing is ever downloaded.
#pragma once

#include <string>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// The directory that holds config.json. An id ("org/name" or "name") is looked up under $HF_HUB_CACHE, else
// $HF_HOME/hub, else ~/.cache/huggingface/hub, at the commit that refs/main names.
Result<std::string> find_model(const std::string& model);

}  // namespace isologit::detail::io
