#include "io/checkpoint.hpp"

#include <sstream>
#include <utility>

#include "io/weight_index.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

struct Part {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string data;
};

std::string safetensors(const std::vector<Part>& parts) {
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
const Part lm_head{"lm_head.weight", "BF16", {4, 2}, "aAbBcCdDeEfFgGhH"};
const Part embedding{"model.embed_tokens.weight", "BF16", {4, 2}, "iIjJkKlLmMnNoOpP"};
const Part other{"model.norm.weight", "F32", {2}, "qqqqrrrr"};
constexpr const char* config = R"({"vocab_size":3,"hidden_size":2})";

class CheckpointTest : public ::testing::Test {
 protected:
  Result<Checkpoint> open(const std::vector<Part>& parts, const std::string& config_text = config) {
    dir_.write("config.json", config_text);
    dir_.write("model.safetensors", safetensors(parts));
    return open_checkpoint(dir_.path());
  }
  Result<Checkpoint> open_index(const std::string& index) {
    dir_.write("config.json", config);
    dir_.write("model.safetensors.index.json", index);
    return open_checkpoint(dir_.path());
  }
  void expect_quantised(const std::vector<Part>& parts, const std::string& found) {
    EXPECT_FAILS(open(parts), StatusCode::unsupported, "quantised", found, "not supported yet");
  }

  TempDir dir_;
};

std::string_view weight_bytes(const Checkpoint& checkpoint) {
  const MatrixView& weight = checkpoint.head.weight;
  return {static_cast<const char*>(weight.data),
          static_cast<std::size_t>(weight.rows * weight.cols) * dtype_size(weight.dtype)};
}

TEST_F(CheckpointTest, UntiedHead) {
  auto opened = open({other, embedding, lm_head});
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint checkpoint = std::move(*opened);
  EXPECT_EQ(weight_bytes(checkpoint), lm_head.data);
  EXPECT_EQ(checkpoint.head.weight.dtype, DType::bf16);
  EXPECT_EQ(checkpoint.head.weight.rows, 4);
  EXPECT_EQ(checkpoint.head.weight.cols, 2);
  EXPECT_EQ(checkpoint.head.weight.row_stride, 2);
  EXPECT_EQ(checkpoint.head.vocab_size, 3);
  EXPECT_EQ(checkpoint.head.bias.data, nullptr);
  EXPECT_EQ(checkpoint.head.bias.size, 0);
  EXPECT_EQ(checkpoint.weight_name, "lm_head.weight");
  EXPECT_EQ(checkpoint.weight_path, dir_.path("model.safetensors"));
  EXPECT_EQ(checkpoint.bias_name, "");
  EXPECT_FALSE(checkpoint.tied);
  EXPECT_EQ(checkpoint.directory, dir_.path());
  EXPECT_EQ(checkpoint.config.hidden_size, 2);
}

TEST_F(CheckpointTest, TiedHead) {
  for (const char* flag : {"", R"(,"tie_word_embeddings":true)", R"(,"tie_word_embeddings":null)"}) {
    const auto checkpoint = open({other, embedding}, std::string(R"({"vocab_size":3,"hidden_size":2)") + flag + "}");
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ(weight_bytes(*checkpoint), embedding.data);
    EXPECT_EQ(checkpoint->weight_name, "model.embed_tokens.weight");
    EXPECT_TRUE(checkpoint->tied);
  }
}

TEST_F(CheckpointTest, PresenceOfTheTensorDecidesBeforeTheFlag) {
  const auto checkpoint = open({embedding, lm_head}, R"({"vocab_size":3,"hidden_size":2,"tie_word_embeddings":true})");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(weight_bytes(*checkpoint), lm_head.data);
  EXPECT_FALSE(checkpoint->tied);
}

TEST_F(CheckpointTest, OtherNames) {
  for (const char* name : {"language_model.lm_head.weight", "embed_out.weight", "output.weight"}) {
    Part head = lm_head;
    head.name = name;
    const auto checkpoint = open({embedding, head});
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->weight_name, name);
    EXPECT_FALSE(checkpoint->tied);
  }
  for (const char* name : {"model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
                           "transformer.wte.weight", "wte.weight"}) {
    Part tied = embedding;
    tied.name = name;
    const auto checkpoint = open({tied});
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->weight_name, name);
    EXPECT_TRUE(checkpoint->tied);
  }
}

TEST_F(CheckpointTest, Bias) {
  const Part bias{"lm_head.bias", "F32", {4}, "ssssttttuuuuvvvv"};
  for (const Part& weight : {lm_head, embedding}) {
    const auto checkpoint = open({weight, bias});
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->bias_name, "lm_head.bias");
    EXPECT_EQ(checkpoint->head.bias.size, 4);
    EXPECT_EQ(checkpoint->head.bias.dtype, DType::f32);
    EXPECT_EQ(std::string_view(static_cast<const char*>(checkpoint->head.bias.data), 16), bias.data);
  }
}

TEST_F(CheckpointTest, BadBias) {
  EXPECT_FAILS(open({lm_head, {"lm_head.bias", "BF16", {3}, "aabbcc"}}), StatusCode::invalid_argument, "lm_head.bias",
               "shape [3], expected [4]");
  EXPECT_FAILS(open({lm_head, {"lm_head.bias", "BF16", {4, 1}, "aabbccdd"}}), StatusCode::invalid_argument,
               "shape [4, 1], expected [4]");
  EXPECT_FAILS(open({lm_head, {"lm_head.bias", "U8", {4}, "abcd"}}), StatusCode::unsupported, "dtype U8");
}

TEST_F(CheckpointTest, DtypesAndTransforms) {
  const auto half = open({{"lm_head.weight", "F16", {4, 2}, lm_head.data}},
                         R"({"vocab_size":4,"hidden_size":2,"final_logit_softcapping":30})");
  ASSERT_TRUE(half) << half.error().message;
  EXPECT_EQ(half->head.weight.dtype, DType::f16);
  EXPECT_TRUE(half->head.transforms.has_softcap);
  EXPECT_EQ(half->head.transforms.softcap, 30.0F);
  const auto single = open({{"lm_head.weight", "F32", {2, 2}, lm_head.data}}, R"({"vocab_size":2,"hidden_size":2})");
  ASSERT_TRUE(single) << single.error().message;
  EXPECT_EQ(single->head.weight.dtype, DType::f32);
}

TEST_F(CheckpointTest, BadShapes) {
  EXPECT_FAILS(open({{"lm_head.weight", "BF16", {8}, lm_head.data}}), StatusCode::invalid_argument, "lm_head.weight",
               "shape [8], expected [vocabulary, hidden]");
  EXPECT_FAILS(open({{"lm_head.weight", "BF16", {2, 4}, lm_head.data}}), StatusCode::invalid_argument, "shape [2, 4]",
               "hidden_size in config.json is 2");
  EXPECT_FAILS(open({lm_head}, R"({"vocab_size":5,"hidden_size":2})"), StatusCode::invalid_argument, "shape [4, 2]",
               "vocab_size in config.json is 5");
}

TEST_F(CheckpointTest, NoHead) {
  EXPECT_FAILS(open({other}), StatusCode::not_found, "no head found", "lm_head.weight", "model.embed_tokens.weight");
  EXPECT_FAILS(open({embedding}, R"({"vocab_size":3,"hidden_size":2,"tie_word_embeddings":false})"),
               StatusCode::not_found, "no head found", "lm_head.weight", "tie_word_embeddings is false",
               "model.embed_tokens.weight");
}

TEST_F(CheckpointTest, QuantisedHeads) {
  expect_quantised({{"lm_head.weight", "F8_E4M3", {4, 2}, "abcdefgh"}}, "dtype F8_E4M3");
  expect_quantised({{"lm_head.weight", "I8", {4, 2}, "abcdefgh"}}, "dtype I8");
  expect_quantised({{"lm_head.weight", "U8", {4, 1}, "abcd"}}, "dtype U8");
  expect_quantised({{"model.embed_tokens.weight", "F8_E4M3", {4, 2}, "abcdefgh"}}, "model.embed_tokens");
  for (const char* name :
       {"lm_head.weight_scale_inv", "lm_head.weight_scale", "lm_head.SCB", "lm_head.weight.absmax"}) {
    expect_quantised({lm_head, {name, "F32", {1}, "abcd"}}, name);
  }
  expect_quantised({{"lm_head.qweight", "I32", {1}, "abcd"}, embedding}, "lm_head.qweight");
  expect_quantised({{"lm_head.weight_packed", "I32", {1}, "abcd"}, embedding}, "lm_head.weight_packed");
  EXPECT_FAILS(open({{"lm_head.weight", "F8_E4M3", {4, 2}, "abcdefgh"}},
                    R"({"vocab_size":3,"hidden_size":2,"quantization_config":{"quant_method":"fp8"}})"),
               StatusCode::unsupported, "quant_method \"fp8\"", "lm_head not listed");
}

TEST_F(CheckpointTest, PlainHeadInAQuantisedModel) {
  const auto checkpoint =
      open({lm_head, {"model.layers.0.q.weight_scale_inv", "F32", {1}, "abcd"}},
           R"({"vocab_size":3,"hidden_size":2,"quantization_config":{"quant_method":"fp8","ignore":["lm_head"]}})");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(weight_bytes(*checkpoint), lm_head.data);
}

TEST_F(CheckpointTest, MissingFiles) {
  EXPECT_FAILS(open_checkpoint(dir_.path()), StatusCode::not_found, "config.json");
  dir_.write("config.json", config);
  EXPECT_FAILS(open_checkpoint(dir_.path()), StatusCode::not_found, "neither model.safetensors nor", "index.json");
  EXPECT_FAILS(open_checkpoint("/nowhere/at/all"), StatusCode::not_found, "/nowhere/at/all");
}

TEST_F(CheckpointTest, DamagedFile) {
  dir_.write("config.json", config);
  dir_.write("model.safetensors", safetensors({lm_head}).substr(0, 40));
  EXPECT_FAILS(open_checkpoint(dir_.path()), StatusCode::invalid_argument, "model.safetensors", "truncated");
}

TEST_F(CheckpointTest, Shards) {
  dir_.write("one.safetensors", safetensors({embedding, other}));
  dir_.write("sub/two.safetensors", safetensors({lm_head}));
  dir_.write("three.safetensors", safetensors({{"lm_head.bias", "BF16", {4}, "aabbccdd"}}));
  auto opened = open_index(R"({"metadata":{"total_size":40},"weight_map":{"model.embed_tokens.weight":"one.safetensors",
      "model.norm.weight":"one.safetensors","lm_head.weight":"sub/two.safetensors","lm_head.bias":"three.safetensors",
      "never.read":"missing.safetensors"}})");
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint checkpoint = std::move(*opened);
  EXPECT_EQ(weight_bytes(checkpoint), lm_head.data);
  EXPECT_EQ(checkpoint.weight_path, dir_.path("sub/two.safetensors"));
  EXPECT_EQ(std::string_view(static_cast<const char*>(checkpoint.head.bias.data), 8), "aabbccdd");
}

TEST_F(CheckpointTest, BadShards) {
  EXPECT_FAILS(open_index(R"({"weight_map":{"lm_head.weight":"gone.safetensors"}})"), StatusCode::not_found,
               "lm_head.weight", "gone.safetensors", "No such file");
  dir_.write("one.safetensors", safetensors({embedding}));
  EXPECT_FAILS(open_index(R"({"weight_map":{"lm_head.weight":"one.safetensors"}})"), StatusCode::invalid_argument,
               "one.safetensors", "has no tensor \"lm_head.weight\"");
  dir_.write("bad.safetensors", "xx");
  EXPECT_FAILS(open_index(R"({"weight_map":{"lm_head.weight":"bad.safetensors"}})"), StatusCode::invalid_argument,
               "bad.safetensors", "only 2 bytes long");
  EXPECT_FAILS(open_index(R"({"weight_map":{}})"), StatusCode::not_found, "no head found");
}

TEST(WeightIndex, Malformed) {
  const auto refused = [](const std::string& text, const std::string& why) {
    EXPECT_FAILS(parse_weight_index(text, "index"), StatusCode::invalid_argument, "index", why);
  };
  refused("{", "not valid JSON");
  refused("[]", "weight_map is missing");
  refused("{}", "weight_map is missing");
  refused(R"({"weight_map":[]})", "weight_map is an array");
  refused(R"({"weight_map":{"a":1}})", R"(weight_map "a" is 1, expected a file name)");
  refused(R"({"weight_map":{"a":"x","a":"y"}})", R"(the key "a" is given twice)");
  refused(R"({"weight_map":{},"weight_map":{}})", R"(the key "weight_map" is given twice)");
  for (const char* file : {"", "../x", "/etc/x", "a/../../x", "a/..", "..", "a\\u0000b"}) {
    refused(std::string(R"({"weight_map":{"a":")") + file + "\"}}", "inside the model's directory");
  }
  EXPECT_TRUE(parse_weight_index(R"({"weight_map":{"a":"x..y/..z/w"}})", "index"));
}

}  // namespace
}  // namespace isologit::detail::io
