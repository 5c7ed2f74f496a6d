#include "io/hf_transforms.hpp"

#include "support.hpp"

namespace isologit::detail::io {
namespace {

Result<Transforms> parse(const std::string& model_type, const std::string& members) {
  const auto config = parse_json("{" + members + "}", "test");
  if (!config) return tl::unexpected(config.error());
  return parse_transforms(*config, model_type, "config.json");
}

void expect_softcap(const std::string& model_type, const std::string& members, float softcap) {
  const auto transforms = parse(model_type, members);
  ASSERT_TRUE(transforms) << transforms.error().message;
  EXPECT_TRUE(transforms->has_softcap) << model_type;
  EXPECT_EQ(transforms->softcap, softcap) << members;
  EXPECT_EQ(transforms->scale_kind, ScaleKind::none);
}

void expect_scale(const std::string& model_type, const std::string& members, ScaleKind kind, float scale) {
  const auto transforms = parse(model_type, members);
  ASSERT_TRUE(transforms) << transforms.error().message;
  EXPECT_FALSE(transforms->has_softcap);
  EXPECT_EQ(transforms->scale_kind, kind) << model_type;
  EXPECT_EQ(transforms->scale, scale) << members;
}

void expect_none(const std::string& model_type, const std::string& members) {
  expect_scale(model_type, members, ScaleKind::none, 1.0F);
}

TEST(HfTransforms, Softcap) {
  expect_softcap("gemma2", R"("final_logit_softcapping":30.0)", 30.0F);
  expect_softcap("gemma4_text", R"("final_logit_softcapping":30)", 30.0F);
  expect_softcap("anything", R"("final_logit_softcapping":0.1)", 0.1F);
  expect_softcap("recurrent_gemma", R"("logits_soft_cap":20)", 20.0F);
  expect_softcap("xlstm", R"("output_logit_soft_cap":20)", 20.0F);
}

TEST(HfTransforms, Scale) {
  expect_scale("cohere", R"("logit_scale":0.25)", ScaleKind::multiply, 0.25F);
  expect_scale("cohere2", R"("logit_scale":-1.5)", ScaleKind::multiply, -1.5F);
  expect_scale("granite", R"("logits_scaling":16)", ScaleKind::divide, 16.0F);
  expect_scale("granitemoehybrid", R"("logits_scaling":6.0)", ScaleKind::divide, 6.0F);
  expect_scale("hyperclovax", R"("logits_scaling":0.125)", ScaleKind::multiply, 0.125F);
  expect_scale("falcon_h1", R"("lm_head_multiplier":0.0195312)", ScaleKind::multiply, 0.0195312F);
}

TEST(HfTransforms, SoftcapAndScaleTogether) {
  const auto transforms = parse("granite", R"("logits_scaling":8,"final_logit_softcapping":50)");
  ASSERT_TRUE(transforms);
  EXPECT_TRUE(transforms->has_softcap);
  EXPECT_EQ(transforms->softcap, 50.0F);
  EXPECT_EQ(transforms->scale_kind, ScaleKind::divide);
  EXPECT_EQ(transforms->scale, 8.0F);
}

TEST(HfTransforms, AbsentNullAndUnrelatedKeys) {
  expect_none("qwen3", "");
  expect_none("granite", R"("logits_scaling":null)");
  expect_none("gemma3_text", R"("final_logit_softcapping":null,"attn_logit_softcapping":50.0)");
  expect_none("clip_like", R"("logit_scale_init_value":2.6592,"query_pre_attn_scalar":256)");
}

TEST(HfTransforms, DefaultsOfModelClasses) {
  expect_softcap("gemma2", "", 30.0F);
  expect_none("gemma2", R"("final_logit_softcapping":null)");
  expect_scale("cohere2", "", ScaleKind::multiply, 0.0625F);
  expect_none("gemma3_text", "");
  expect_none("granite", "");
}

TEST(HfTransforms, KeyWhoseMeaningForTheFamilyIsUnknown) {
  EXPECT_FAILS(parse("mpt", R"("logit_scale":0.5)"), StatusCode::unsupported, "config.json: logit_scale is 0.5",
               "model_type \"mpt\"");
  EXPECT_FAILS(parse("mpt", R"("logit_scale":"inv_sqrt_d_model")"), StatusCode::unsupported,
               "logit_scale is \"inv_sqrt_d_model\"");
  EXPECT_FAILS(parse("qwen3", R"("logits_scaling":2)"), StatusCode::unsupported, "logits_scaling is 2");
  EXPECT_FAILS(parse("falcon", R"("lm_head_multiplier":2)"), StatusCode::unsupported, "lm_head_multiplier is 2");
  EXPECT_FAILS(parse("muse_glimmer", R"("final_logit_softcapping":20,"output_multiplier":0.196)"),
               StatusCode::unsupported, "output_multiplier is 0.196");
  expect_none("mpt", R"("logit_scale":null)");
  expect_none("qwen3", R"("logits_scaling":1.0,"logit_scale":1)");
}

TEST(HfTransforms, RoundedOnceFromTheDecimalText) {
  // Just above the midpoint of 1 and the next f32; by way of f64 it would become the midpoint, and then 1.
  expect_softcap("", R"("final_logit_softcapping":1.00000005960464477539062501)", 0x1.000002p0F);
  expect_softcap("", R"("final_logit_softcapping":1.000000059604644775390625)", 1.0F);
  // The same for an integer, 2^24 + 1 being a midpoint.
  expect_softcap("", R"("final_logit_softcapping":16777217)", 16777216.0F);
  expect_softcap("", R"("final_logit_softcapping":16777217.0000000000001)", 16777218.0F);
  expect_softcap("", R"("final_logit_softcapping":3.4028235e38)", 0x1.fffffep127F);
  expect_softcap("", R"("final_logit_softcapping":1e-40)", 1e-40F);
  expect_softcap("", R"("final_logit_softcapping":18446744073709551616)", 0x1p64F);
}

TEST(HfTransforms, BadNumbers) {
  for (const char* value : {"0", "-0", "0.0", "-30", "-1e-3", "1e39", "1e-60", "true", "\"30\"", "[30]", "{}"}) {
    EXPECT_FAILS(parse("gemma2", std::string(R"("final_logit_softcapping":)") + value), StatusCode::invalid_argument,
                 "config.json: final_logit_softcapping is ", "expected a number above 0");
    EXPECT_FAILS(parse("granite", std::string(R"("logits_scaling":)") + value), StatusCode::invalid_argument,
                 "config.json: logits_scaling is ", "expected a number above 0");
  }
  EXPECT_FAILS(parse("granite", R"("logits_scaling":-30)"), StatusCode::invalid_argument, "logits_scaling is -30,");
  for (const char* value : {"0", "-0.0", "1e39", "-1e39", "1e-60", "false", "\"1\""}) {
    EXPECT_FAILS(parse("cohere", std::string(R"("logit_scale":)") + value), StatusCode::invalid_argument,
                 "config.json: logit_scale is ", "expected a number other than 0");
  }
}

}  // namespace
}  // namespace isologit::detail::io
