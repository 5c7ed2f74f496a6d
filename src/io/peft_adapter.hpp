// A LoRA adapter in a folder of its own, as PEFT saves it: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <optional>
#include <string>

#include "io/head_names.hpp"
#include "io/safetensors.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct PeftAdapter {
  SafetensorsFile file;
  Lora lora;         // of no rows where the adapter leaves the head as it is; valid while this object lives
  std::string name;  // of the tensor a; empty where there is none
};

// The adapter's share in the head `names` of a model of this configuration. An adapter that does anything to the head
// but add scale·b·a to its weight is an error that says what.
Result<PeftAdapter> open_peft_adapter(const std::string& directory, const HeadNames& names, const HfConfig& config);

}  // namespace isologit::detail::io
