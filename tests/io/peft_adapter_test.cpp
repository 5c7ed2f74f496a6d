#include "io/peft_adapter.hpp"

#include "base/text.hpp"
#include "checkpoint_model.hpp"

namespace isologit::detail::io {
namespace {

// r = 1: a [1, 2] and b [4, 1].
const std::vector<Part> adapter_parts = {{"base_model.model.lm_head.lora_A.weight", "F32", {1, 2}, "abcdefgh"},
                                         {"base_model.model.lm_head.lora_B.weight", "BF16", {4, 1}, "aAbBcCdD"}};

class AdapterTest : public CheckpointTest {
 protected:
  Result<Checkpoint> with(const std::string& more, const std::vector<Part>& parts = adapter_parts,
                          const char* model = config) {
    adapter_.write("adapter_config.json", R"({"peft_type":"LORA","r":1,"lora_alpha":3,"bias":"none")" + more + "}");
    adapter_.write("adapter_model.safetensors", safetensors(parts));
    dir_.write("config.json", model);
    dir_.write("model.safetensors", safetensors({model == config ? lm_head : other, embedding}));
    return open_checkpoint(dir_.path(), std::nullopt, adapter_.path());
  }
  double scale(const std::string& more, const std::vector<Part>& parts = adapter_parts) {
    const auto checkpoint = with(more, parts);
    EXPECT_TRUE(checkpoint) << checkpoint.error().message;
    return checkpoint ? checkpoint->head.lora.scale : 0;
  }
  TempDir adapter_;
};

TEST_F(AdapterTest, IsTheHeadsLowRankAddition) {
  const auto checkpoint = with("");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const Lora& lora = checkpoint->head.lora;
  EXPECT_EQ(std::string(static_cast<const char*>(lora.a.data), 8), "abcdefgh");
  EXPECT_EQ(std::string(static_cast<const char*>(lora.b.data), 8), "aAbBcCdD");
  EXPECT_EQ(lora.a.dtype, DType::f32);
  EXPECT_EQ(lora.b.dtype, DType::bf16);
  EXPECT_EQ(lora.a.rows, 1);
  EXPECT_EQ(lora.a.cols, 2);
  EXPECT_EQ(lora.b.rows, 4);
  EXPECT_EQ(lora.b.cols, 1);
  EXPECT_EQ(lora.scale, 3);
  EXPECT_EQ(checkpoint->adapter->name, "base_model.model.lm_head.lora_A.weight");
}

// What PEFT 0.21 has as `scaling` for such configurations.
TEST_F(AdapterTest, ScaleIsThatOfPeft) {
  const std::vector<Part> of_rank_3 = {
      {"base_model.model.lm_head.lora_A.weight", "BF16", {3, 2}, "abcdefghijkl"},
      {"base_model.model.lm_head.lora_B.weight", "BF16", {4, 3}, "abcdefghijklmnopqrstuvwx"}};
  const auto rank_3 = [&](const std::string& more) {
    return scale(R"(,"rank_pattern":{"lm_head":3})" + more, of_rank_3);
  };
  EXPECT_EQ(rank_3(""), 1.0);
  EXPECT_EQ(rank_3(R"(,"alpha_pattern":{"q_proj":7,"lm_head":16})"), 16.0 / 3);
  EXPECT_EQ(rank_3(R"(,"use_rslora":true,"alpha_pattern":{"lm_head":16})"), 0x1.279a74590331dp+3);
  EXPECT_EQ(rank_3(R"(,"alpha_pattern":{"head":16})"), 1.0);  // no whole name
  EXPECT_EQ(scale(R"(,"alpha_pattern":{"lm_head":0.1})"), 0.1);
}

TEST_F(AdapterTest, ATiedHeadIsItsOwnModule) {
  const auto checkpoint = with("", adapter_parts, tied_config);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_TRUE(checkpoint->tied);
  EXPECT_EQ(checkpoint->head.lora.a.rows, 1);
  const Part of_embedding{"base_model.model.model.embed_tokens.lora_embedding_A", "F32", {1, 2}, "abcdefgh"};
  EXPECT_FAILS(with("", {of_embedding}, tied_config), StatusCode::unsupported, "embed_tokens.lora_embedding_A",
               "may change the head");
  EXPECT_TRUE(with("", {of_embedding}));
}

TEST_F(AdapterTest, OfTheBodyAloneLeavesTheHeadAsItIs) {
  const auto checkpoint =
      with("", {{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "F32", {1, 2}, "abcdefgh"}});
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->head.lora.a.rows, 0);
  EXPECT_TRUE(checkpoint->adapter);
}

TEST_F(AdapterTest, WhatItMayDoBesidesIsRefusedByName) {
  for (const char* key : {"use_dora", "use_qalora", "fan_in_fan_out", "lora_bias"}) {
    EXPECT_FAILS(with(base::concat(",\"", key, "\":true")), StatusCode::unsupported, base::concat(key, " is true"));
    EXPECT_TRUE(with(base::concat(",\"", key, "\":false")));
  }
  EXPECT_FAILS(with(R"(,"target_parameters":["lm_head.weight"])"), StatusCode::unsupported, "target_parameters");
  EXPECT_FAILS(with(R"(,"alpha_pattern":{".*head":2})"), StatusCode::unsupported, "regular expression \".*head\"");
  EXPECT_FAILS(with(R"(,"rank_pattern":{"lm_head":2})"), StatusCode::invalid_argument, "r is 2 for lm_head",
               "lora_A has 1 rows");
  const auto and_also = [&](const Part& part) {
    std::vector<Part> parts = adapter_parts;
    parts.push_back(part);
    return with("", parts);
  };
  for (const char* name : {"lm_head.weight", "lm_head.lora_magnitude_vector", "lm_head.lora_B.bias",
                           "text.lm_head.lora_A.weight", "lm_head.base_layer.lora_A.weight"}) {
    EXPECT_FAILS(and_also({base::concat("base_model.model.", name), "F32", {2}, "abcdefgh"}), StatusCode::unsupported,
                 name, "may change the head lm_head");
  }
  EXPECT_FAILS(with("", {adapter_parts[0]}), StatusCode::invalid_argument, "one of lora_A and lora_B");
  EXPECT_FAILS(with("", {{adapter_parts[0].name, "F64", {1, 1}, "abcdefgh"}, adapter_parts[1]}),
               StatusCode::unsupported, "is F64 of shape [1, 1]");
  adapter_.write("adapter_config.json", R"({"peft_type":"LOHA"})");
  EXPECT_FAILS(open_checkpoint(dir_.path(), std::nullopt, adapter_.path()), StatusCode::unsupported,
               "peft_type is \"LOHA\"; expected \"LORA\"");
  EXPECT_FAILS(open_checkpoint(dir_.path(), std::nullopt, dir_.path("none")), StatusCode::not_found,
               "adapter_config.json");
}

}  // namespace
}  // namespace isologit::detail::io
