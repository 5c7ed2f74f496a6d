// The head of a Hugging Face checkpoint or of a GGUF file, as views into mapped files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint_files.hpp"
#include "io/hf_config.hpp"
#include "io/peft_adapter.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct Checkpoint {
  Head head;                                  // valid while this object, or what it was moved to, lives
  HfConfig config;                            // of a GGUF file: model_type is its architecture, and there is no family
  std::string directory;                      // of a GGUF file: the file
  std::string weight_name;                    // "lm_head.weight", or the embedding's name when tied
  std::string weight_path;                    // of the file that holds it
  std::string bias_name;                      // empty: no bias
  std::string scales_name;                    // of a weight of f8
  std::vector<std::uint16_t> decoded_scales;  // where the head's are not those of the file
  bool tied = false;
  CheckpointFiles files;
  std::optional<MappedFile> gguf;
  std::optional<PeftAdapter> adapter;
};

// model is a local directory, an id in the local Hugging Face cache (hf_cache.hpp), or a file whose name ends with
// .gguf. Without a given head it is found by what is known of the model's family or architecture. adapter: the folder
// of a LoRA adapter that is added to it; empty: none.
Result<Checkpoint> open_checkpoint(const std::string& model, const std::optional<GivenHead>& given = std::nullopt,
                                   const std::string& adapter = "");

}  // namespace isologit::detail::io
