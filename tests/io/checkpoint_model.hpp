// A small model's folder, whose head tests open.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "io/checkpoint.hpp"
#include "support.hpp"

namespace isologit::detail::io {

struct Part {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string data;
};

inline std::string safetensors(const std::vector<Part>& parts) {
  std::ostringstream header;
  std::string data;
  header << "{";
  for (const Part& part : parts) {
    header << (data.empty() ? "" : ",") << "\"" << part.name << R"(":{"dtype":")" << part.dtype << R"(","shape":[)";
    for (std::size_t i = 0; i < part.shape.size(); ++i) header << (i == 0 ? "" : ",") << part.shape[i];
    header << R"(],"data_offsets":[)" << data.size() << ",";
    data += part.data;
    header << data.size() << "]}";
  }
  header << "}";
  return safetensors_bytes(header.str(), data);
}

// [4, 2]
inline const Part lm_head{"lm_head.weight", "BF16", {4, 2}, "aAbBcCdDeEfFgGhH"};
inline const Part embedding{"model.embed_tokens.weight", "BF16", {4, 2}, "iIjJkKlLmMnNoOpP"};
inline const Part other{"model.norm.weight", "F32", {2}, "qqqqrrrr"};
inline constexpr const char* config = R"({"model_type":"qwen3","vocab_size":3,"hidden_size":2})";
inline constexpr const char* tied_config = R"({"model_type":"gemma","vocab_size":3,"hidden_size":2})";  // by default
inline constexpr const char* bias_config = R"({"model_type":"phi","vocab_size":3,"hidden_size":2})";

class CheckpointTest : public ::testing::Test {
 protected:
  Result<Checkpoint> open(const std::vector<Part>& parts, const std::string& config_text = config) {
    dir_.write("config.json", config_text);
    dir_.write("model.safetensors", safetensors(parts));
    return open_checkpoint(dir_.path());
  }
  Result<Checkpoint> open_given(const std::vector<Part>& parts, const GivenHead& given, const char* config_text) {
    dir_.write("config.json", config_text);
    dir_.write("model.safetensors", safetensors(parts));
    return open_checkpoint(dir_.path(), given);
  }
  Result<Checkpoint> open_index(const std::string& index) {
    dir_.write("config.json", bias_config);
    dir_.write("model.safetensors.index.json", index);
    return open_checkpoint(dir_.path());
  }
  void expect_quantised(const std::vector<Part>& parts, const std::string& found) {
    EXPECT_FAILS(open(parts), StatusCode::unsupported, "quantised", found, "only f8 with scales is read");
  }

  TempDir dir_;
};

}  // namespace isologit::detail::io
