// An adapter that lies beside a checkpoint, as PEFT saves it.
#pragma once

#include <string>

#include "io/head_names.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

// An error if the directory has an adapter_config.json that changes the head, or may.
Result<void> check_adapter(const std::string& directory, const HeadNames& head);

}  // namespace isologit::detail::io
