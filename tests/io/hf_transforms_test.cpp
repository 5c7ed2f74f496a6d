// What classes do to their logits, as their families in the table say.
#include <string>

#include "io/hf_config.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

Result<Transforms> parse(const std::string& architecture, const std::string& model_type, const std::string& members) {
  const auto config = parse_hf_config(R"({"vocab_size":7,"model_type":")" + model_type + R"(","architectures":[")" +
                                          architecture + "\"]" + (members.empty() ? "" : ",") + members + "}",
                                      "config.json");
  if (!config) return tl::unexpected(config.error());
  return config->transforms;
}

void expect_softcap(const std::string& architecture, const std::string& model_type, const std::string& members,
                    float softcap) {
  const auto transforms = parse(architecture, model_type, members);
  ASSERT_TRUE(transforms) << transforms.error().message;
  EXPECT_TRUE(transforms->has_softcap) << architecture;
  EXPECT_EQ(transforms->softcap, softcap) << members;
  EXPECT_EQ(transforms->scale_kind, ScaleKind::none);
}

void expect_scale(const std::string& architecture, const std::string& model_type, const std::string& members,
                  ScaleKind kind, float scale) {
  const auto transforms = parse(architecture, model_type, members);
  ASSERT_TRUE(transforms) << transforms.error().message;
  EXPECT_FALSE(transforms->has_softcap);
  EXPECT_EQ(transforms->scale_kind, kind) << architecture;
  EXPECT_EQ(transforms->scale, scale) << members;
}

void expect_none(const std::string& architecture, const std::string& model_type, const std::string& members) {
  expect_scale(architecture, model_type, members, ScaleKind::none, 1.0F);
}

TEST(HfTransforms, Softcap) {
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":20.0)", 20.0F);
  expect_softcap("Gemma4ForCausalLM", "gemma4_text", R"("final_logit_softcapping":30)", 30.0F);
  expect_softcap("RecurrentGemmaForCausalLM", "recurrent_gemma", R"("logits_soft_cap":20)", 20.0F);
  expect_softcap("xLSTMForCausalLM", "xlstm", R"("output_logit_soft_cap":20)", 20.0F);
}

TEST(HfTransforms, Scale) {
  const ScaleKind times = ScaleKind::multiply;
  expect_scale("CohereForCausalLM", "cohere", R"("logit_scale":0.25)", times, 0.25F);
  expect_scale("Cohere2ForCausalLM", "cohere2", R"("logit_scale":-1.5)", times, -1.5F);
  expect_scale("GraniteForCausalLM", "granite", R"("logits_scaling":16)", ScaleKind::divide, 16.0F);
  expect_scale("GraniteMoeHybridForCausalLM", "granitemoehybrid", R"("logits_scaling":6.0)", ScaleKind::divide, 6.0F);
  expect_scale("HyperCLOVAXForCausalLM", "hyperclovax", R"("logits_scaling":0.125)", times, 0.125F);
  expect_scale("FalconH1ForCausalLM", "falcon_h1", R"("lm_head_multiplier":0.0195312)", times, 0.0195312F);
  expect_none("FalconH1ForCausalLM", "falcon_h1", R"("lm_head_multiplier":1.0)");
}

TEST(HfTransforms, DefaultsOfClasses) {
  expect_softcap("Gemma2ForCausalLM", "gemma2", "", 30.0F);
  expect_softcap("BeamForCausalLM", "beam", "", 30.0F);
  expect_softcap("NanoChatForCausalLM", "nanochat", "", 15.0F);
  expect_softcap("VaultGemmaForCausalLM", "vaultgemma", "", 30.0F);
  expect_softcap("Inkling2ForCausalLM", "inkling2_text", R"("unpadded_vocab_size":7)", 30.0F);
  expect_softcap("MistralLarge4ForConditionalGeneration", "mistral_large4",
                 R"("text_config":{"model_type":"mistral_large4_text","vocab_size":7})", 30.0F);
  expect_none("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":null)");
  expect_scale("Cohere2ForCausalLM", "cohere2", "", ScaleKind::multiply, 0.0625F);
  expect_none("Gemma3ForCausalLM", "gemma3_text", "");
  expect_none("GraniteForCausalLM", "granite", "");
}

// The wrapper of a composite model may leave out what its text model does by itself: the model's logits are the
// reference.
TEST(HfTransforms, WrappersThatLeaveOutWhatTheTextModelDoes) {
  const auto leaves_out = [](const char* architecture, const char* model_type, const char* text) {
    expect_none(architecture, model_type, std::string(R"("text_config":{"vocab_size":7,)") + text + "}");
  };
  for (const char* text :
       {R"("model_type":"granite","logits_scaling":8)", R"("model_type":"cohere2","logit_scale":0.25)",
        R"("model_type":"gemma2","final_logit_softcapping":30)"}) {
    leaves_out("AyaVisionForConditionalGeneration", "aya_vision", text);
    leaves_out("Cohere2VisionForConditionalGeneration", "cohere2_vision", text);
    leaves_out("GraniteSpeechForConditionalGeneration", "granite_speech", text);
    leaves_out("LlavaForConditionalGeneration", "llava", text);
    leaves_out("InternVLForConditionalGeneration", "internvl", text);
  }
  leaves_out("Mistral3ForConditionalGeneration", "mistral3", R"("model_type":"granite","logits_scaling":8)");
  leaves_out("Mistral3ForConditionalGeneration", "mistral3", R"("model_type":"gemma2","final_logit_softcapping":30)");
  expect_scale("GraniteDoclingForConditionalGeneration", "granite_docling",
               R"("text_config":{"model_type":"granite_docling_text","vocab_size":7})", ScaleKind::divide, 4.0F);
}

TEST(HfTransforms, KeysThatTheClassDoesNotHave) {
  const auto refused = [](const std::string& members, const std::string& why) {
    EXPECT_FAILS(parse("Qwen3ForCausalLM", "qwen3", members), StatusCode::unsupported, why,
                 "Qwen3ForCausalLM has no such key");
  };
  refused(R"("logit_scale":0.5)", "config.json: logit_scale is 0.5");
  refused(R"("logits_scaling":2)", "logits_scaling is 2");
  refused(R"("logit_scale":"inv_sqrt_d_model")", "logit_scale is \"inv_sqrt_d_model\"");
  refused(R"("final_logit_softcapping":30)", "final_logit_softcapping is 30");
  refused(R"("mup_width_multiplier":8.0)", "mup_width_multiplier is 8.0");
  refused(R"("output_multiplier_scale":0.57)", "output_multiplier_scale is 0.57");
  refused(R"("norm_head":true)", "norm_head is true");
  expect_none("Qwen3ForCausalLM", "qwen3", R"("logits_scaling":1.0,"logit_scale":1,"norm_head":false,"x":2)");
  expect_none("Qwen3ForCausalLM", "qwen3", R"("logits_scaling":null,"attn_logit_softcapping":50.0)");
}

// What comes before the head is in the captured rows already, and is no transform of logits.
TEST(HfTransforms, StepsBeforeTheHead) {
  expect_none("MiniCPM3ForCausalLM", "minicpm3", R"("dim_model_base":256,"hidden_size":2560)");
  expect_none("InklingForCausalLM", "inkling_text", R"("logits_mup_width_multiplier":8.0)");
  EXPECT_FAILS(parse("BailingHybridForCausalLM", "bailing_hybrid", R"("norm_head":true)"), StatusCode::unsupported,
               "norm_head is true");
}

TEST(HfTransforms, ScaleBeforeTheSoftcap) {
  const auto muse = [](const std::string& members) {
    return parse("MuseGlimmerForConditionalGeneration", "muse_glimmer",
                 R"("text_config":{"model_type":"muse_glimmer_text","vocab_size":7)" + members + "}");
  };
  const auto both = muse("");
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_EQ(both->order, TransformOrder::scale_first);
  EXPECT_EQ(both->softcap, 20.0F);
  EXPECT_EQ(both->scale, 0.19611613513818404F);
  const auto spark = parse("MuseSparkForConditionalGeneration", "muse_spark",
                           R"("text_config":{"model_type":"muse_spark_text","vocab_size":7})");
  ASSERT_TRUE(spark) << spark.error().message;
  EXPECT_EQ(spark->order, TransformOrder::scale_first);
  EXPECT_EQ(spark->softcap, 20.0F);
  EXPECT_EQ(spark->scale, 0.1767766952966369F);
  const auto cap = muse(R"(,"output_multiplier":1.0)");
  ASSERT_TRUE(cap) << cap.error().message;
  EXPECT_EQ(cap->softcap, 20.0F);
  EXPECT_EQ(cap->order, TransformOrder::softcap_first);
  const auto scale = muse(R"(,"output_multiplier":0.5,"final_logit_softcapping":null)");
  ASSERT_TRUE(scale) << scale.error().message;
  EXPECT_FALSE(scale->has_softcap);
  EXPECT_EQ(scale->scale, 0.5F);
}

TEST(HfTransforms, RoundedOnceFromTheDecimalText) {
  // Just above the midpoint of 1 and the next f32; by way of f64 it would become the midpoint, and then 1.
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":1.00000005960464477539062501)",
                 0x1.000002p0F);
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":1.000000059604644775390625)", 1.0F);
  // The same for an integer, 2^24 + 1 being a midpoint.
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":16777217)", 16777216.0F);
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":16777217.0000000000001)", 16777218.0F);
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":3.4028235e38)", 0x1.fffffep127F);
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":1e-40)", 1e-40F);
  expect_softcap("Gemma2ForCausalLM", "gemma2", R"("final_logit_softcapping":18446744073709551616)", 0x1p64F);
}

TEST(HfTransforms, BadNumbers) {
  for (const char* value : {"0", "-0", "0.0", "-30", "-1e-3", "1e39", "1e-60", "true", "\"30\"", "[30]", "{}"}) {
    EXPECT_FAILS(parse("Gemma2ForCausalLM", "gemma2", std::string(R"("final_logit_softcapping":)") + value),
                 StatusCode::invalid_argument, "config.json: final_logit_softcapping is ", "expected a number above 0");
    EXPECT_FAILS(parse("GraniteForCausalLM", "granite", std::string(R"("logits_scaling":)") + value),
                 StatusCode::invalid_argument, "config.json: logits_scaling is ", "expected a number above 0");
  }
  EXPECT_FAILS(parse("GraniteForCausalLM", "granite", R"("logits_scaling":-30)"), StatusCode::invalid_argument,
               "logits_scaling is -30,");
  for (const char* value : {"0", "-0.0", "1e39", "-1e39", "1e-60", "false", "\"1\""}) {
    EXPECT_FAILS(parse("CohereForCausalLM", "cohere", std::string(R"("logit_scale":)") + value),
                 StatusCode::invalid_argument, "config.json: logit_scale is ", "expected a number other than 0");
  }
}

}  // namespace
}  // namespace isologit::detail::io
