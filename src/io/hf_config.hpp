// What a Hugging Face config.json says about the head, by what is known of its family. A null value is the same as an
// absent key, but that a class whose default is a softcap or a scale does without it where the key is null.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/families.hpp"
#include "io/given_head.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct Quantization {
  std::string method;                      // quant_method: "fp8", "gptq", ..., or empty
  std::vector<std::string> not_converted;  // modules_to_not_convert, ignore and exclude_modules, as written
  std::vector<std::int64_t> block;         // that share a scale: [rows, columns], or empty
  std::string changes;                     // what else it says is done to weights, in words; or empty

  // Whether the list leaves this module, such as "lm_head", as it was.
  bool leaves_out(std::string_view module) const;
};

struct HfConfig {
  const Family* family = nullptr;  // null: the head is given
  std::string model_type;          // or empty
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;  // 0: not said
  bool tied = false;             // what the tie key says, or the class where there is none
  std::string dtype;             // "bfloat16", ..., or empty
  Transforms transforms;
  std::optional<Quantization> quantization;
};

// source names the document in messages. With a given head the family is not looked for.
Result<HfConfig> parse_hf_config(std::string_view text, const std::string& source, const GivenHead* given = nullptr);
Result<HfConfig> read_hf_config(const std::string& path, const GivenHead* given = nullptr);

}  // namespace isologit::detail::io
