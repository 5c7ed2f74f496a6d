#include "io/hf_config.hpp"

#include "support.hpp"

namespace isologit::detail::io {
namespace {

Result<HfConfig> parse(const std::string& text) { return parse_hf_config(text, "config.json"); }

// A minimal configuration with further members.
Result<HfConfig> parse_with(const std::string& members) {
  return parse(R"({"model_type":"qwen3","vocab_size":7,"hidden_size":3,)" + members + "}");
}

// Of a composite model, with members of its text model.
Result<HfConfig> parse_nested(const std::string& architecture, const std::string& type, const std::string& text) {
  return parse(R"({"model_type":")" + type + R"(","architectures":[")" + architecture + R"("],"text_config":{)" + text +
               "}}");
}

void expect_refused(const std::string& members, const std::string& why) {
  EXPECT_FAILS(parse_with(members), StatusCode::invalid_argument, "config.json: ", why) << members;
}

TEST(HfConfig, Flat) {
  const auto config = parse(R"({"model_type":"qwen3","vocab_size":151936,"hidden_size":4096,"tie_word_embeddings":false,
                "torch_dtype":"bfloat16","rope_theta":1e6,"layer_types":["full"]})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model_type, "qwen3");
  EXPECT_EQ(config->vocab_size, 151936);
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_FALSE(config->tied);
  EXPECT_EQ(config->family->architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(config->dtype, "bfloat16");
  EXPECT_FALSE(config->transforms.has_softcap);
  EXPECT_EQ(config->transforms.scale_kind, ScaleKind::none);
  EXPECT_FALSE(config->quantization);
}

TEST(HfConfig, AbsentAndNullAreTheSame) {
  for (const char* members :
       {R"("x":0)", R"("tie_word_embeddings":null,"torch_dtype":null,"dtype":null,"text_config":null,
                              "final_logit_softcapping":null,"quantization_config":null,"architectures":null)"}) {
    const auto config = parse_with(members);
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_FALSE(config->tied);
    EXPECT_EQ(config->dtype, "");
    EXPECT_FALSE(config->transforms.has_softcap);
    EXPECT_FALSE(config->quantization);
  }
  EXPECT_TRUE(parse(R"({"model_type":"gemma","vocab_size":7})")->tied);  // by default of the class
}

TEST(HfConfig, NestedTextConfig) {
  const auto config = parse(R"({"model_type":"gemma4","architectures":["Gemma4ForConditionalGeneration"],
      "vocab_size":1,"tie_word_embeddings":false,"dtype":"float32","vision_config":{"hidden_size":99},
      "text_config":{"model_type":"gemma4_text","vocab_size":10,"hidden_size":20,"tie_word_embeddings":true,
                     "final_logit_softcapping":30.0,"dtype":null}})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->model_type, "gemma4");
  EXPECT_EQ(config->vocab_size, 10);
  EXPECT_EQ(config->hidden_size, 20);
  EXPECT_FALSE(config->tied);  // the outer flag is the class's
  EXPECT_EQ(config->dtype, "float32");
  EXPECT_EQ(config->transforms.softcap, 30.0F);
  EXPECT_FAILS(parse_nested("LlavaForConditionalGeneration", "llava", R"("model_type":"bert","vocab_size":7)"),
               StatusCode::unsupported, "a text model of \"bert\" is not known");
  EXPECT_FAILS(parse(R"({"model_type":"llava","architectures":["LlavaForConditionalGeneration"],"vocab_size":7})"),
               StatusCode::not_found, "text_config is missing");
}

// Published before there was a text_config, and taken so by the class.
TEST(HfConfig, FlatConfigurationOfACompositeModel) {
  const auto config = parse(R"({"model_type":"qwen2_5_vl","architectures":["Qwen2_5_VLForConditionalGeneration"],
      "vocab_size":10,"hidden_size":20})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->vocab_size, 10);
}

TEST(HfConfig, FamiliesThatAreNotKnown) {
  EXPECT_FAILS(parse(R"({"vocab_size":3})"), StatusCode::unsupported, "model_type \"\" is not known", "--head TENSOR",
               "--assume-plain-head");
  EXPECT_FAILS(parse(R"({"model_type":"grok-1","vocab_size":3,"output_multiplier_scale":0.5})"),
               StatusCode::unsupported, "model_type \"grok-1\" is not known");
  EXPECT_FAILS(parse(R"({"model_type":"llama","architectures":["LlamaForSequenceClassification"],"vocab_size":3})"),
               StatusCode::unsupported, "\"LlamaForSequenceClassification\" is not known");
  EXPECT_FAILS(parse(R"({"model_type":"chameleon","architectures":["ChameleonForConditionalGeneration"]})"),
               StatusCode::unsupported, "not taken by itself: what it does to the logits after its head",
               "--head TENSOR");
  EXPECT_FAILS(parse(R"({"model_type":"bert","vocab_size":3})"), StatusCode::unsupported, "architectures is missing",
               "BertForMaskedLM", "say which");
  EXPECT_FAILS(parse(R"({"model_type":"llama","architectures":[],"vocab_size":3})"), StatusCode::unsupported,
               "architectures is an array, expected an array with the name of one class");
  EXPECT_FAILS(parse(R"({"model_type":"llama","architectures":["A","B"]})"), StatusCode::unsupported, "architectures");
}

// Models whose own code does more than a matrix product to their logits, or of which nothing is known.
TEST(HfConfig, ModelsThatAreRefusedByName) {
  struct Refused {
    const char* model_type;
    const char* architecture;
    const char* key;
  };
  for (const Refused& refused : {Refused{"minicpm", "MiniCPMForCausalLM", R"("dim_model_base":256)"},
                                 {"phi3small", "Phi3SmallForCausalLM", R"("mup_width_multiplier":8.0)"},
                                 {"grok-1", "Grok1ModelForCausalLM", R"("output_multiplier_scale":0.5773502691896257)"},
                                 {"bailing_moe", "BailingMoeForCausalLM", R"("norm_head":true)"},
                                 {"baichuan", "BaichuanForCausalLM", R"("z_loss_weight":0)"},
                                 {"dory", "DoryForCausalLM", R"("x":0)"},
                                 {"idefics", "IdeficsForVisionText2Text", R"("additional_vocab_size":2)"},
                                 {"chameleon", "ChameleonForConditionalGeneration", R"("x":0)"},
                                 {"pocket_tts", "PocketTTSForConditionalGeneration", R"("x":0)"},
                                 {"diffusion_gemma", "DiffusionGemmaForBlockDiffusion", R"("x":0)"}}) {
    EXPECT_FAILS(parse(std::string(R"({"vocab_size":7,"hidden_size":3,"model_type":")") + refused.model_type +
                       R"(","architectures":[")" + refused.architecture + "\"]," + refused.key + "}"),
                 StatusCode::unsupported, refused.model_type, "--head TENSOR");
  }
}

TEST(HfConfig, AGivenHead) {
  GivenHead given;
  given.transforms.scale_kind = ScaleKind::divide;
  given.transforms.scale = 4.0F;
  const auto config = parse_hf_config(R"({"model_type":"new","text_config":{"vocab_size":9}})", "config.json", &given);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->vocab_size, 9);
  EXPECT_EQ(config->transforms.scale, 4.0F);
  EXPECT_EQ(config->family, nullptr);
}

TEST(HfConfig, DtypeUnderEitherName) {
  EXPECT_EQ(parse_with(R"("dtype":"float16","torch_dtype":"float32")")->dtype, "float16");
  EXPECT_EQ(parse_with(R"("dtype":{"text_config":"float16"},"torch_dtype":"float32")")->dtype, "float32");
  expect_refused(R"("torch_dtype":16)", "torch_dtype is 16, expected a string");
}

TEST(HfConfig, Sizes) {
  for (const char* value : {"0", "-5", "5.0", "1e3", "\"5\"", "[5]", "true", "{}", "9223372036854775808", "1e300"}) {
    EXPECT_FAILS(parse(std::string(R"({"model_type":"qwen3","vocab_size":)") + value + "}"),
                 StatusCode::invalid_argument, "config.json: vocab_size is ", "expected an integer above 0");
    EXPECT_FAILS(parse(std::string(R"({"model_type":"qwen3","vocab_size":3,"hidden_size":)") + value + "}"),
                 StatusCode::invalid_argument, "config.json: hidden_size is ", "expected an integer above 0");
  }
  EXPECT_EQ(parse(R"({"model_type":"gpt2","vocab_size":7,"n_embd":5})")->hidden_size, 5);
  EXPECT_EQ(parse(R"({"model_type":"gpt2","vocab_size":7})")->hidden_size, 0);  // not said, and not checked
  const auto unpadded = parse(R"({"model_type":"inkling2_text","architectures":["Inkling2ForCausalLM"],
                                  "vocab_size":9,"unpadded_vocab_size":7})");
  ASSERT_TRUE(unpadded) << unpadded.error().message;
  EXPECT_EQ(unpadded->vocab_size, 7);
  EXPECT_FAILS(parse(R"({"model_type":"inkling2_text","architectures":["Inkling2ForCausalLM"],"vocab_size":9})"),
               StatusCode::not_found, "unpadded_vocab_size is missing");
}

TEST(HfConfig, VocabularyThatIsLeftToTheClass) {
  const auto gemma =
      parse_nested("Gemma3ForConditionalGeneration", "gemma3", R"("model_type":"gemma3_text","hidden_size":2560)");
  ASSERT_TRUE(gemma) << gemma.error().message;
  EXPECT_EQ(gemma->vocab_size, 262208);
  EXPECT_EQ(parse(R"({"model_type":"gpt2"})")->vocab_size, 50257);
}

TEST(HfConfig, WrongTypes) {
  expect_refused(R"("tie_word_embeddings":1)", "tie_word_embeddings is 1, expected true or false");
  expect_refused(R"("tie_word_embeddings":"true")", R"(tie_word_embeddings is "true", expected true or false)");
  EXPECT_FAILS(parse(R"({"model_type":"llava","architectures":["LlavaForConditionalGeneration"],"text_config":[]})"),
               StatusCode::invalid_argument, "text_config is an array, expected an object");
  EXPECT_FAILS(parse(R"({"model_type":3})"), StatusCode::invalid_argument, "model_type is 3, expected a string");
  expect_refused(R"("quantization_config":"fp8")", R"(quantization_config is "fp8", expected an object)");
  expect_refused(R"("quantization_config":{"quant_method":1})", "quantization_config.quant_method is 1");
  expect_refused(R"("quantization_config":{"ignore":"lm_head"})",
                 R"(quantization_config.ignore is "lm_head", expected an array of strings)");
  expect_refused(R"("quantization_config":{"modules_to_not_convert":[1]})",
                 "quantization_config.modules_to_not_convert contains 1, expected strings");
  EXPECT_FAILS(parse("[]"), StatusCode::invalid_argument, "the top level is an array");
}

TEST(HfConfig, MalformedJson) {
  for (const char* members : {R"("vocab_size":7)", R"("text_config":{"a":1,"a":1})", R"("a":NaN)", R"("a":Infinity)",
                              R"("final_logit_softcapping":-Infinity)", R"("a":[)", ""}) {
    EXPECT_FAILS(parse_with(members), StatusCode::invalid_argument, "config.json is not valid JSON");
  }
  EXPECT_FAILS(parse_with(R"("vocab_size":7)"), StatusCode::invalid_argument, R"(the key "vocab_size" is given twice)");
}

TEST(HfConfig, Quantization) {
  const auto config = parse_with(
      R"("quantization_config":{"quant_method":"fp8","weight_block_size":[128,128],"modules_to_not_convert":["lm_head"],
         "ignore":["re:.*embed_tokens","visual"]})");
  ASSERT_TRUE(config) << config.error().message;
  ASSERT_TRUE(config->quantization);
  EXPECT_EQ(config->quantization->method, "fp8");
  EXPECT_EQ(config->quantization->not_converted, (std::vector<std::string>{"lm_head", "re:.*embed_tokens", "visual"}));
  EXPECT_TRUE(config->quantization->leaves_out("lm_head"));
  EXPECT_TRUE(config->quantization->leaves_out("embed_tokens"));
  EXPECT_FALSE(config->quantization->leaves_out("model.lm_head"));
  const auto bare = parse_with(R"("quantization_config":{})");
  ASSERT_TRUE(bare && bare->quantization);
  EXPECT_FALSE(bare->quantization->leaves_out("lm_head"));
}

TEST(HfConfig, ReadsAFile) {
  const TempDir dir;
  const auto config =
      read_hf_config(dir.write("config.json", R"({"model_type":"qwen3","vocab_size":7,"hidden_size":3})"));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->vocab_size, 7);
  EXPECT_FAILS(read_hf_config(dir.path("none.json")), StatusCode::not_found, "none.json");
  EXPECT_FAILS(read_hf_config(dir.write("bad.json", "{")), StatusCode::invalid_argument,
               "bad.json\" is not valid JSON");
}

}  // namespace
}  // namespace isologit::detail::io
