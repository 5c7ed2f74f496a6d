#include <cmath>
#include <utility>

#include "checkpoint_model.hpp"
#include "exact/element.hpp"
#include "io/weight_index.hpp"

namespace isologit::detail::io {
namespace {

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
  for (const char* keys : {R"("model_type":"gemma")", R"("model_type":"qwen3","tie_word_embeddings":true)",
                           R"("model_type":"gemma","tie_word_embeddings":null)"}) {
    const auto checkpoint = open({other, embedding}, std::string(R"({"vocab_size":3,"hidden_size":2,)") + keys + "}");
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ(weight_bytes(*checkpoint), embedding.data);
    EXPECT_EQ(checkpoint->weight_name, "model.embed_tokens.weight");
    EXPECT_TRUE(checkpoint->tied);
  }
}

TEST_F(CheckpointTest, PresenceOfTheTensorDecidesBeforeTheFlag) {
  const auto checkpoint = open({embedding, lm_head}, tied_config);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(weight_bytes(*checkpoint), lm_head.data);
  EXPECT_FALSE(checkpoint->tied);
}

// Names that families have, now and in older checkpoints.
TEST_F(CheckpointTest, NamesOfFamilies) {
  struct Named {
    const char* name;
    bool tied;
    std::string keys;
  };
  const std::string llava = R"("model_type":"llava","architectures":["LlavaForConditionalGeneration"],"text_config":
      {"model_type":"llama","vocab_size":3,"hidden_size":2},"tie_word_embeddings":)";
  for (const Named& named :
       {Named{"language_model.lm_head.weight", false, llava + "false"},
        {"lm_head.weight", false, llava + "false"},
        {"language_model.model.embed_tokens.weight", true, llava + "true"},
        {"model.language_model.embed_tokens.weight", true, llava + "true"},
        {"language_model.model.embed_tokens.weight", true,  // the outer flag counts, here the class's default
         R"("model_type":"aya_vision","architectures":["AyaVisionForConditionalGeneration"],"text_config":
         {"model_type":"cohere2","vocab_size":3,"hidden_size":2,"tie_word_embeddings":false})"},
        {"embed_out.weight", false, R"("model_type":"gpt_neox","vocab_size":3,"hidden_size":2)"},
        {"transformer.wte.weight", true, R"("model_type":"gpt2","vocab_size":3,"n_embd":2)"},
        {"wte.weight", true, R"("model_type":"gpt2","vocab_size":3,"n_embd":2)"},
        {"proj_out.weight", false,
         R"("model_type":"whisper","architectures":["WhisperForConditionalGeneration"],"vocab_size":3,"d_model":2)"}}) {
    Part part = lm_head;
    part.name = named.name;
    const auto checkpoint = open({part}, "{" + named.keys + "}");
    ASSERT_TRUE(checkpoint) << named.name << ": " << checkpoint.error().message;
    EXPECT_EQ(checkpoint->weight_name, named.name);
    EXPECT_EQ(checkpoint->tied, named.tied);
  }
}

TEST_F(CheckpointTest, Bias) {
  const Part bias{"lm_head.bias", "F32", {4}, "ssssttttuuuuvvvv"};
  for (const char* flag : {R"("tie_word_embeddings":false)", R"("tie_word_embeddings":true)"}) {
    const bool tied = std::string_view(flag).ends_with("true");
    const auto checkpoint = open({tied ? embedding : lm_head, bias},
                                 std::string(R"({"model_type":"phi","vocab_size":3,"hidden_size":2,)") + flag + "}");
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->bias_name, "lm_head.bias");
    EXPECT_EQ(checkpoint->head.bias.size, 4);
    EXPECT_EQ(checkpoint->head.bias.dtype, DType::f32);
    EXPECT_EQ(std::string_view(static_cast<const char*>(checkpoint->head.bias.data), 16), bias.data);
  }
}

// BERT's bias lies outside of the head's module, and Bart's is a row of a matrix.
TEST_F(CheckpointTest, BiasUnderOtherNames) {
  const Part bert{"cls.predictions.decoder.weight", "BF16", {4, 2}, lm_head.data};
  const auto outside =
      open({bert, {"cls.predictions.bias", "BF16", {4}, "aabbccdd"}},
           R"({"model_type":"bert","architectures":["BertForMaskedLM"],"vocab_size":3,"hidden_size":2})");
  ASSERT_TRUE(outside) << outside.error().message;
  EXPECT_EQ(outside->bias_name, "cls.predictions.bias");
  const auto row = open({lm_head, {"final_logits_bias", "BF16", {1, 4}, "aabbccdd"}},
                        R"({"model_type":"bart","architectures":["BartForConditionalGeneration"],"vocab_size":3,
                            "d_model":2})");
  ASSERT_TRUE(row) << row.error().message;
  EXPECT_EQ(row->bias_name, "final_logits_bias");
  EXPECT_EQ(row->head.bias.size, 4);
}

TEST_F(CheckpointTest, BadBias) {
  EXPECT_FAILS(open({lm_head, {"lm_head.bias", "BF16", {3}, "aabbcc"}}, bias_config), StatusCode::invalid_argument,
               "lm_head.bias", "shape [3], expected [4]");
  EXPECT_FAILS(open({lm_head, {"lm_head.bias", "BF16", {4, 1}, "aabbccdd"}}, bias_config), StatusCode::invalid_argument,
               "shape [4, 1], expected [4]");
  EXPECT_FAILS(open({lm_head, {"lm_head.bias", "U8", {4}, "abcd"}}, bias_config), StatusCode::unsupported, "dtype U8");
}

TEST_F(CheckpointTest, DtypesAndTransforms) {
  const auto half = open({{"lm_head.weight", "F16", {4, 2}, lm_head.data}},
                         R"({"model_type":"gemma2","vocab_size":4,"hidden_size":2,"final_logit_softcapping":30})");
  ASSERT_TRUE(half) << half.error().message;
  EXPECT_EQ(half->head.weight.dtype, DType::f16);
  EXPECT_TRUE(half->head.transforms.has_softcap);
  EXPECT_EQ(half->head.transforms.softcap, 30.0F);
  const auto single = open({{"lm_head.weight", "F32", {2, 2}, lm_head.data}},
                           R"({"model_type":"qwen3","vocab_size":2,"hidden_size":2})");
  ASSERT_TRUE(single) << single.error().message;
  EXPECT_EQ(single->head.weight.dtype, DType::f32);
}

TEST_F(CheckpointTest, BadShapes) {
  EXPECT_FAILS(open({{"lm_head.weight", "BF16", {8}, lm_head.data}}), StatusCode::invalid_argument, "lm_head.weight",
               "shape [8], expected [vocabulary, hidden]");
  EXPECT_FAILS(open({{"lm_head.weight", "BF16", {2, 4}, lm_head.data}}), StatusCode::invalid_argument, "shape [2, 4]",
               "hidden_size in config.json is 2");
  EXPECT_FAILS(open({lm_head}, R"({"model_type":"qwen3","vocab_size":5,"hidden_size":2})"),
               StatusCode::invalid_argument, "shape [4, 2]", "the vocabulary has 5 ids");
}

TEST_F(CheckpointTest, NoHead) {
  EXPECT_FAILS(open({other}), StatusCode::not_found, "no head found", "lm_head.weight", "model.embed_tokens.weight");
  EXPECT_FAILS(
      open({embedding}, R"({"model_type":"qwen3","vocab_size":3,"hidden_size":2,"tie_word_embeddings":false})"),
      StatusCode::not_found, "no head found", "lm_head.weight", "tie_word_embeddings is false",
      "model.embed_tokens.weight");
}

TEST_F(CheckpointTest, QuantisedHeads) {
  expect_quantised({{"lm_head.weight", "I8", {4, 2}, "abcdefgh"}}, "dtype I8");
  expect_quantised({{"lm_head.weight", "U8", {4, 1}, "abcd"}}, "dtype U8");
  expect_quantised({{"lm_head.weight", "F8_E4M3FNUZ", {4, 2}, "abcdefgh"}}, "dtype F8_E4M3FNUZ");
  EXPECT_FAILS(open({{"model.embed_tokens.weight", "I8", {4, 2}, "abcdefgh"}}, tied_config), StatusCode::unsupported,
               "quantised", "model.embed_tokens");
  for (const char* name : {"lm_head.weight_scale_inv", "lm_head.weight_scale", "lm_head.SCB", "lm_head.weight.absmax",
                           "lm_head.W_q", "lm_head.codes"}) {
    expect_quantised({lm_head, {name, "F32", {1}, "abcd"}}, name);
  }
  expect_quantised({{"lm_head.qweight", "I32", {1}, "abcd"}, embedding}, "lm_head.qweight");
  expect_quantised({{"lm_head.weight_packed", "I32", {1}, "abcd"}, embedding}, "lm_head.weight_packed");
  EXPECT_FAILS(
      open({{"lm_head.weight", "I8", {4, 2}, "abcdefgh"}},
           R"({"model_type":"qwen3","vocab_size":3,"hidden_size":2,"quantization_config":{"quant_method":"fp8"}})"),
      StatusCode::unsupported, "quant_method \"fp8\"", "lm_head not listed");
}

TEST_F(CheckpointTest, F64) {
  const std::string data = bytes_of(std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8});
  const auto checkpoint = open({{"lm_head.weight", "F64", {4, 2}, data}});
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const Head& head = checkpoint->head;
  EXPECT_EQ(head.encoded.encoding, Encoding::f64);
  EXPECT_EQ(std::string_view(static_cast<const char*>(head.encoded.data), 64), data);
  EXPECT_EQ(head.weight.data, nullptr);
  EXPECT_EQ(head.weight.rows, 4);
  EXPECT_EQ(head.weight.row_stride, 2);
  EXPECT_FAILS(open({{"lm_head.weight", "F64", {4, 2}, data}, {"lm_head.weight_scale", "F32", {1}, "abcd"}}),
               StatusCode::unsupported, "lm_head.weight_scale");
}

class F8CheckpointTest : public CheckpointTest {
 protected:
  static std::string config_with(const std::string& quantization) {
    return R"({"model_type":"qwen3","vocab_size":3,"hidden_size":2,"quantization_config":)" + quantization + "}";
  }
  Result<Checkpoint> open_f8(const Part& scales, const std::string& quantization) {
    return open({weight_, scales}, config_with(quantization));
  }
  void expect_scales(const Part& scales, const std::string& quantization, std::int64_t block_rows,
                     std::int64_t block_cols) {
    const auto checkpoint = open_f8(scales, quantization);
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    const EncodedWeight& weight = checkpoint->head.encoded;
    EXPECT_EQ(weight.encoding, Encoding::f8_e4m3);
    EXPECT_EQ(std::string_view(static_cast<const char*>(weight.data), 8), weight_.data);
    EXPECT_EQ(weight.product, F8Product::real);
    EXPECT_EQ(weight.scales.block_rows, block_rows);
    EXPECT_EQ(weight.scales.block_cols, block_cols);
    EXPECT_EQ(weight.scales.first_row, 0);
    EXPECT_EQ(std::string_view(static_cast<const char*>(weight.scales.values.data), scales.data.size()), scales.data);
    EXPECT_EQ(checkpoint->scales_name, scales.name);
  }

  const Part weight_{"lm_head.weight", "F8_E4M3", {4, 2}, "abcdefgh"};
  const std::string channel_ = R"({"quant_method":"compressed-tensors","ignore":["re:.*gate"],"transform_config":{},
      "config_groups":{"group_0":{"weights":{"num_bits":8,"strategy":"channel","block_structure":null}}}})";
};

TEST_F(F8CheckpointTest, Scales) {
  const std::string fp8 = R"({"quant_method":"fp8"})";
  expect_scales({"lm_head.weight_scale", "F32", {}, "abcd"}, fp8, 0, 0);
  expect_scales({"lm_head.weight_scale", "F32", {1}, "abcd"}, fp8, 0, 0);
  expect_scales({"lm_head.weight_scale", "F16", {1, 1}, "ab"}, fp8, 0, 0);
  expect_scales({"lm_head.weight_scale", "BF16", {4, 1}, "aabbccdd"}, channel_, 1, 0);
  expect_scales({"lm_head.weight_scale", "BF16", {4}, "aabbccdd"}, channel_, 1, 0);
  expect_scales({"lm_head.weight_scale", "BF16", {4, 1}, "aabbccdd"}, R"({"quant_method":"fbgemm_fp8"})", 1, 0);
  expect_scales({"lm_head.weight_scale_inv", "F32", {2, 2}, "aaaabbbbccccdddd"},
                R"({"quant_method":"fp8","weight_block_size":[3,1]})", 3, 1);
  expect_scales({"lm_head.weight_scale_inv", "F32", {1, 1}, "aaaa"},
                R"({"quant_method":"fp8","weight_block_size":[128,128]})", 128, 128);
  expect_scales(
      {"lm_head.weight_scale", "F32", {2, 1}, "aaaabbbb"},
      R"({"quant_method":"compressed-tensors","config_groups":{"group_0":{"weights":{"block_structure":[2,2]}}}})", 2,
      2);
  const auto e5m2 =
      open({{"lm_head.weight", "F8_E5M2", {4, 2}, "abcdefgh"}, {"lm_head.weight_scale", "F32", {}, "abcd"}},
           config_with(fp8));
  ASSERT_TRUE(e5m2) << e5m2.error().message;
  EXPECT_EQ(e5m2->head.encoded.encoding, Encoding::f8_e5m2);
}

TEST_F(F8CheckpointTest, ScalesOfGroupsAndOfModelopt) {
  const std::string group =
      R"({"quant_method":"compressed-tensors","config_groups":{"group_0":{"weights":{"num_bits":8,"type":"float",
      "strategy":"group","group_size":1,"actorder":"static"}}}})";
  expect_scales({"lm_head.weight_scale", "BF16", {4, 2}, "aabbccddeeffgghh"}, group, 1, 1);
  expect_scales({"lm_head.weight_scale", "F32", {4, 1}, "aaaabbbbccccdddd"},
                R"({"quant_method":"compressed-tensors","config_groups":{"group_0":{"weights":{"strategy":"channel",
                "group_size":-1}}}})",
                1, 0);
  expect_scales({"lm_head.weight_scale", "F32", {}, "abcd"},
                R"({"quant_method":"modelopt","quant_algo":"FP8","producer":{"name":"modelopt"}})", 0, 0);
}

TEST_F(F8CheckpointTest, ScalesThatArePowersOfTwo) {
  auto opened = open_f8({"lm_head.weight_scale_inv", "F8_E8M0", {2, 2}, std::string("\x00\x7F\x80\xFF", 4)},
                        R"({"quant_method":"fp8","weight_block_size":[3,1],"scale_fmt":"ue8m0"})");
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint checkpoint = std::move(*opened);  // the scales move with it
  const F8Scales& scales = checkpoint.head.encoded.scales;
  ASSERT_EQ(scales.values.dtype, DType::bf16);
  EXPECT_EQ(scales.values.row_stride, 2);
  const std::vector<float> expected = {0x1p-127F, 1, 2};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(exact::load_element(scales.values.data, DType::bf16, static_cast<std::int64_t>(i)), expected[i]);
  }
  EXPECT_TRUE(std::isnan(exact::load_element(scales.values.data, DType::bf16, 3)));
}

TEST_F(F8CheckpointTest, RefusesWhatIsNotKnown) {
  const Part one{"lm_head.weight_scale", "F32", {}, "abcd"};
  EXPECT_FAILS(open({weight_}, config_with(R"({"quant_method":"fp8"})")), StatusCode::not_found,
               "lm_head.weight is f8_e4m3, and there are no scales", "lm_head.weight_scale_inv");
  EXPECT_FAILS(open({weight_, one}), StatusCode::unsupported, "no quantization_config");
  EXPECT_FAILS(open_f8(one, R"({"quant_method":"odd"})"), StatusCode::unsupported, "quant_method is \"odd\"",
               "expected fp8, compressed-tensors");
  EXPECT_FAILS(open_f8(one, R"({"quant_method":"fp8","modules_to_not_convert":["lm_head"]})"), StatusCode::unsupported,
               "leaves lm_head as it was");
  EXPECT_FAILS(open_f8(one, R"({"quant_method":"compressed-tensors","transform_config":{"a":1}})"),
               StatusCode::unsupported, "transform_config is an object");
  EXPECT_FAILS(open_f8({"lm_head.weight_scale", "U8", {1}, "a"}, R"({"quant_method":"fp8"})"), StatusCode::unsupported,
               "dtype U8, expected F32, BF16, F16 or F8_E8M0");
  EXPECT_FAILS(open_f8(one, R"({"quant_method":"modelopt","quant_algo":"NVFP4"})"), StatusCode::unsupported,
               "quant_algo is \"NVFP4\", expected \"FP8\" of modelopt");
  EXPECT_FAILS(open_f8(one, R"({"quant_method":"modelopt"})"), StatusCode::unsupported, "quant_algo is absent");
  EXPECT_FAILS(open_f8(one, R"({"quant_method":"modelopt","quant_algo":"FP8","exclude_modules":["lm_head"]})"),
               StatusCode::unsupported, "leaves lm_head as it was");
  const auto with_weights = [](const std::string& weights) {
    return R"({"quant_method":"compressed-tensors","config_groups":{"group_0":{"weights":)" + weights + "}}}";
  };
  EXPECT_FAILS(open_f8(one, with_weights(R"({"strategy":"tensor_group"})")), StatusCode::unsupported,
               "strategy is \"tensor_group\"");
  EXPECT_FAILS(open_f8(one, with_weights(R"({"actorder":"group"})")), StatusCode::unsupported, "actorder is \"group\"");
  for (const char* size : {"0", "-2", "1.5", "\"1\""}) {
    EXPECT_FAILS(open_f8(one, with_weights(std::string(R"({"group_size":)") + size + "}")),
                 StatusCode::invalid_argument, "group_size", "expected an integer above 0, or -1");
  }
  EXPECT_FAILS(open_f8({"lm_head.weight_scale", "BF16", {4, 1}, "aabbccdd"}, with_weights(R"({"group_size":1})")),
               StatusCode::unsupported, "shape [4, 1]", "one scale for each block of [1, 1]");
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{2, 1}, {1, 4}, {4, 2}, {4, 1, 1}}) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    const Part scales{"lm_head.weight_scale", "F32", shape, std::string(static_cast<std::size_t>(4 * count), 'a')};
    EXPECT_FAILS(open_f8(scales, channel_), StatusCode::unsupported, "for a weight of [4, 2]",
                 "one scale for all or for each row");
  }
  for (const char* block : {"[128,128]", "[2,1]"}) {
    EXPECT_FAILS(open_f8({"lm_head.weight_scale", "BF16", {4, 1}, "aabbccdd"},
                         std::string(R"({"quant_method":"fp8","weight_block_size":)") + block + "}"),
                 StatusCode::unsupported, "shape [4, 1]", "one scale for each block of");
  }
  for (const char* block : {"[0,1]", "3", "[1]", "[1.5,1]"}) {
    EXPECT_FAILS(open_f8(one, std::string(R"({"quant_method":"fp8","weight_block_size":)") + block + "}"),
                 StatusCode::invalid_argument, "weight_block_size", "expected two integers above 0");
  }
  EXPECT_FAILS(
      open({weight_, one, {"lm_head.weight_scale_inv", "F32", {}, "abcd"}}, config_with(R"({"quant_method":"fp8"})")),
      StatusCode::unsupported, "lm_head.weight_scale");
  EXPECT_FAILS(
      open({weight_, one, {"lm_head.input_scale", "F32", {}, "abcd"}}, config_with(R"({"quant_method":"fp8"})")),
      StatusCode::unsupported, "lm_head.input_scale", "engines round the head's hidden states to f8", "--head TENSOR");
}

TEST_F(CheckpointTest, PlainHeadInAQuantisedModel) {
  const auto checkpoint = open(
      {lm_head, {"model.layers.0.q.weight_scale_inv", "F32", {1}, "abcd"}},
      R"({"model_type":"qwen3","vocab_size":3,"hidden_size":2,"quantization_config":{"quant_method":"fp8","ignore":["lm_head"]}})");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(weight_bytes(*checkpoint), lm_head.data);
}

// What changes the head and is no part of the class, by name.
TEST_F(CheckpointTest, TensorsThatChangeTheHead) {
  for (const char* name :
       {"lm_head.lora_A.weight", "lm_head.base_layer.weight", "lm_head.weight_v", "lm_head.parametrizations.weight.0",
        "lm_head.bias", "base_model.model.lm_head.lora_B.weight", "additional_fc.weight", "logit_scale",
        "lm_head.additional_fc.weight"}) {
    EXPECT_FAILS(open({lm_head, {name, "BF16", {1}, "aa"}}), StatusCode::unsupported, name,
                 "is not one that Qwen3ForCausalLM has", "--assume-plain-head");
  }
  EXPECT_FAILS(open({embedding, {"lm_head.base_layer.weight", "BF16", {1}, "aa"}}), StatusCode::unsupported,
               "lm_head.base_layer.weight");
  EXPECT_FAILS(open({embedding, {"model.embed_tokens.lora_embedding_A", "BF16", {1}, "aa"}}, tied_config),
               StatusCode::unsupported, "model.embed_tokens.lora_embedding_A");
  for (const char* name : {"model.layers.0.self_attn.q_proj.lora_A.weight", "mtp.fc.weight", "visual.blocks.0.lm.bias",
                           "model.layers.61.shared_head.head.weight"}) {
    const auto checkpoint = open({lm_head, {name, "BF16", {1}, "aa"}});
    EXPECT_TRUE(checkpoint) << name << ": " << checkpoint.error().message;
  }
}

TEST_F(CheckpointTest, AnAdapterThatTargetsTheHead) {
  const auto with_adapter = [&](const std::string& adapter) {
    dir_.write("adapter_config.json", adapter);
    return open({lm_head});
  };
  for (const char* adapter :
       {R"({"target_modules":["q_proj","lm_head"]})", R"({"modules_to_save":["lm_head"]})",
        R"({"target_modules":".*head"})", R"({"target_modules":[3]})", R"({"target_parameters":["lm_head.weight"]})"}) {
    EXPECT_FAILS(with_adapter(adapter), StatusCode::unsupported, "adapter_config.json", "may change the head lm_head");
  }
  EXPECT_FAILS(with_adapter("{"), StatusCode::invalid_argument, "adapter_config.json", "not valid JSON");
  for (const char* adapter :
       {R"({"target_modules":["q_proj","head"],"modules_to_save":null})", R"({"target_modules":"all-linear"})", "{}"}) {
    const auto checkpoint = with_adapter(adapter);
    EXPECT_TRUE(checkpoint) << adapter << ": " << checkpoint.error().message;
  }
}

TEST_F(CheckpointTest, AHeadThatIsGiven) {
  GivenHead given{"odd.out.weight", {}, std::nullopt};
  given.transforms.has_softcap = true;
  given.transforms.softcap = 5.0F;
  Part odd = lm_head;
  odd.name = "odd.out.weight";
  const Part bias{"odd.out.bias", "BF16", {4}, "aabbccdd"};
  const auto checkpoint = open_given({odd, embedding, bias}, given, R"({"model_type":"odd","vocab_size":3})");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(weight_bytes(*checkpoint), odd.data);
  EXPECT_EQ(checkpoint->head.vocab_size, 3);
  EXPECT_EQ(checkpoint->head.transforms.softcap, 5.0F);
  EXPECT_EQ(checkpoint->bias_name, "odd.out.bias");
  EXPECT_FALSE(checkpoint->tied);
  EXPECT_FAILS(open_given({odd}, given, R"({"model_type":"odd"})"), StatusCode::not_found, "vocab_size is missing",
               "--vocab-size N");
  EXPECT_FAILS(open_given({lm_head}, given, "{}"), StatusCode::not_found, "vocab_size is missing");
  given.vocab_size = 2;
  EXPECT_FAILS(open_given({lm_head}, given, "{}"), StatusCode::not_found, "--head: no tensor \"odd.out.weight\"");
  const auto shorter = open_given({odd}, given, R"({"vocab_size":3})");
  ASSERT_TRUE(shorter) << shorter.error().message;
  EXPECT_EQ(shorter->head.vocab_size, 2);
  given.vocab_size = 5;
  EXPECT_FAILS(open_given({odd}, given, "{}"), StatusCode::invalid_argument, "the vocabulary has 5 ids");
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
      "model.layers.0.never.read":"missing.safetensors"}})");
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
