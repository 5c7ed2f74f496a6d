// The head of a Hugging Face checkpoint, as views into its mapped files.
#pragma once

#include <optional>
#include <string>

#include "io/checkpoint_files.hpp"
#include "io/hf_config.hpp"
#include "io/peft_adapter.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct Checkpoint {
  Head head;  // valid while this object, or what it was moved to, lives
  HfConfig config;
  std::string directory;
  std::string weight_name;  // "lm_head.weight", or the embedding's name when tied
  std::string weight_path;  // of the file that holds it
  std::string bias_name;    // empty: no bias
  bool tied = false;
  CheckpointFiles files;
  std::optional<PeftAdapter> adapter;
};

// model is a local directory or an id in the local Hugging Face cache (hf_cache.hpp). Without a given head it is found
// by what is known of the model's family. adapter: the folder of a LoRA adapter that is added to it; empty: none.
Result<Checkpoint> open_checkpoint(const std::string& model, const std::optional<GivenHead>& given = std::nullopt,
                                   const std::string& adapter = "");

}  // namespace isologit::detail::io
