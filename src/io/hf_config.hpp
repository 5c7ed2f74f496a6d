// What a Hugging Face config.json says about the head. In a multimodal model the nested text_config comes first, then
// the outer object; a null value is the same as an absent key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct Quantization {
  std::string method;                      // quant_method: "fp8", "gptq", ..., or empty
  std::vector<std::string> not_converted;  // modules_to_not_convert and ignore, as written

  // Whether the list leaves this module, such as "lm_head", as it was.
  bool leaves_out(std::string_view module) const;
};

struct HfConfig {
  std::string model_type;  // of the text model, or empty
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::optional<bool> tie_word_embeddings;
  std::string dtype;  // "bfloat16", ..., or empty
  Transforms transforms;
  std::optional<Quantization> quantization;
};

// source names the document in messages.
Result<HfConfig> parse_hf_config(std::string_view text, const std::string& source);
Result<HfConfig> read_hf_config(const std::string& path);

}  // namespace isologit::detail::io
