#include "io/gguf.hpp"

#include <functional>

#include "io/checkpoint.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

constexpr std::uint32_t k_u32 = 4;
constexpr std::uint32_t k_f32 = 6;
constexpr std::uint32_t k_string = 8;
constexpr std::uint32_t k_array = 9;

template <class T>
std::string raw(T value) {
  return bytes_of(std::vector<T>{value});
}
std::string text(std::string_view text) { return length_prefix(text.size()) + std::string(text); }

// A file, part by part.
struct Writer {
  struct Part {
    std::string name;
    std::vector<std::uint64_t> shape;  // the outermost dimension first
    std::uint32_t type;
    std::string data;
  };
  std::uint32_t version = 3;
  std::vector<std::string> pairs;
  std::vector<Part> parts;
  std::size_t alignment = 32;
  std::function<std::uint64_t(std::size_t, std::uint64_t)> move = [](std::size_t, std::uint64_t at) { return at; };

  Writer& pair(std::string_view key, std::uint32_t type, const std::string& value) {
    pairs.push_back(text(key) + raw(type) + value);
    return *this;
  }
  Writer& architecture(std::string_view name) { return pair("general.architecture", k_string, text(name)); }
  Writer& number(std::string_view key, float value) { return pair(key, k_f32, raw(value)); }
  Writer& tensor(std::string_view name, std::vector<std::uint64_t> shape, std::uint32_t type, std::string data) {
    parts.push_back({std::string(name), std::move(shape), type, std::move(data)});
    return *this;
  }

  std::string bytes() const {
    std::string out = "GGUF" + raw(version) + raw<std::uint64_t>(parts.size()) + raw<std::uint64_t>(pairs.size());
    for (const std::string& pair : pairs) out += pair;
    std::string data;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Part& part = parts[i];
      data.resize((data.size() + alignment - 1) / alignment * alignment);
      out += text(part.name) + raw(static_cast<std::uint32_t>(part.shape.size()));
      for (std::size_t d = part.shape.size(); d-- > 0;) out += raw(part.shape[d]);
      out += raw(part.type) + raw(move(i, data.size()));
      data += part.data;
    }
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }
};

constexpr std::uint32_t k_F32 = 0;
constexpr std::uint32_t k_F16 = 1;
constexpr std::uint32_t k_Q6_K = 14;
constexpr std::uint32_t k_BF16 = 30;

const std::string k_head(16, 'h');
const std::string k_embed(16, 'e');

Result<GgufContents> parse(const std::string& bytes) {
  static std::string kept;
  kept = bytes;
  return parse_gguf(std::as_bytes(std::span(kept)), "x.gguf");
}

TEST(Gguf, WholeFile) {
  for (const std::uint32_t version : {2U, 3U}) {
    Writer writer;
    writer.version = version;
    const std::string strings =
        raw(k_string) + raw<std::uint64_t>(3) + text("a") + text("") + text(std::string("b\0c", 3));
    writer.architecture("llama").pair("tokens", k_array, strings).pair("u", k_u32, raw<std::uint32_t>(7));
    writer.number("f", 0.5F).tensor("two", {4, 2}, k_BF16, k_head).tensor("one", {3}, k_F32, "aaaabbbbcccc");
    const auto contents = parse(writer.bytes());
    ASSERT_TRUE(contents) << contents.error().message;
    EXPECT_EQ(*contents->value<std::string>("general.architecture"), "llama");
    EXPECT_EQ(contents->value<GgufArray>("tokens")->length, 3U);
    EXPECT_EQ(*contents->value<std::uint64_t>("u"), 7U);
    EXPECT_EQ(*contents->value<float>("f"), 0.5F);
    EXPECT_EQ(contents->value<float>("u"), nullptr);
    const Tensor* two = contents->find("two");
    ASSERT_NE(two, nullptr);
    EXPECT_EQ(two->dtype, "BF16");
    EXPECT_EQ(two->shape, (std::vector<std::int64_t>{4, 2}));
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(two->data), two->bytes), k_head);
    EXPECT_EQ(contents->find("one")->bytes, 12U);
    EXPECT_EQ(contents->find("none"), nullptr);
  }
}

TEST(Gguf, EveryKindOfValue) {
  Writer writer;
  const std::vector<std::pair<std::uint32_t, std::string>> values = {{0, raw<std::uint8_t>(200)},
                                                                     {1, raw<std::int8_t>(-3)},
                                                                     {2, raw<std::uint16_t>(60000)},
                                                                     {3, raw<std::int16_t>(-4)},
                                                                     {4, raw<std::uint32_t>(9)},
                                                                     {5, raw<std::int32_t>(-5)},
                                                                     {6, raw(1.5F)},
                                                                     {7, raw<std::uint8_t>(1)},
                                                                     {8, text("t")},
                                                                     {10, raw(~std::uint64_t{0})},
                                                                     {11, raw<std::int64_t>(-6)},
                                                                     {12, raw(2.5)}};
  for (const auto& [type, bytes] : values) {
    writer.pair("k" + std::to_string(type), type, bytes);
    writer.pair("a" + std::to_string(type), k_array, raw(type) + raw<std::uint64_t>(2) + bytes + bytes);
  }
  const auto contents = parse(writer.bytes());
  ASSERT_TRUE(contents) << contents.error().message;
  EXPECT_EQ(*contents->value<std::uint64_t>("k0"), 200U);
  EXPECT_EQ(*contents->value<std::int64_t>("k1"), -3);
  EXPECT_EQ(*contents->value<std::uint64_t>("k2"), 60000U);
  EXPECT_EQ(*contents->value<std::int64_t>("k3"), -4);
  EXPECT_EQ(*contents->value<std::int64_t>("k5"), -5);
  EXPECT_EQ(*contents->value<bool>("k7"), true);
  EXPECT_EQ(*contents->value<std::uint64_t>("k10"), ~std::uint64_t{0});
  EXPECT_EQ(*contents->value<double>("k12"), 2.5);
  for (const auto& [type, bytes] : values) {
    EXPECT_EQ(contents->value<GgufArray>("a" + std::to_string(type))->length, 2U);
  }
}

// Whatever is missing at the end: an error that says so, never a read past it.
TEST(Gguf, EveryTruncation) {
  Writer writer;
  writer.architecture("llama").pair("a", k_array, raw(k_string) + raw<std::uint64_t>(2) + text("xy") + text("z"));
  writer.tensor("t", {4, 2}, k_BF16, k_head);
  const std::string whole = writer.bytes();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    const auto contents = parse_gguf(std::as_bytes(std::span(exact)), "x.gguf");
    ASSERT_FALSE(contents) << size;
    EXPECT_EQ(contents.error().code, StatusCode::invalid_argument);
    EXPECT_TRUE(contents.error().message.starts_with("\"x.gguf\": ")) << contents.error().message;
  }
}

TEST(Gguf, Hostile) {
  const auto refuses = [](const Writer& writer, const std::string& why, const std::string& also = "") {
    EXPECT_FAILS(parse(writer.bytes()), StatusCode::invalid_argument, why, also);
  };
  const std::uint64_t huge = ~std::uint64_t{0};
  EXPECT_FAILS(parse("GGML" + Writer{}.bytes()), StatusCode::invalid_argument, "does not begin with the letters GGUF");
  for (const std::uint32_t version : {0U, 1U, 4U}) refuses({.version = version}, "expected 2 or 3");
  refuses({.version = 3U << 24}, "the other byte order");
  EXPECT_FAILS(parse("GGUF" + raw(3U) + raw(huge) + raw(huge)), StatusCode::invalid_argument, "the file ends");
  refuses(Writer{}.pair("k", k_string, raw(huge)), "has a text of 18446744073709551615 bytes");
  refuses(Writer{}.pair("k", 13, raw(huge)), "\"k\" has the unknown type 13");
  refuses(Writer{}.pair("k", k_array, raw(k_u32) + raw(huge)), "the file ends");
  refuses(Writer{}.pair("k", k_array, raw(k_string) + raw(huge)), "the file ends");
  refuses(Writer{}.pair("k", k_array, raw(k_array) + raw<std::uint64_t>(1)), "an array in an array");
  refuses(Writer{}.number("k", 1).number("k", 1), "\"k\" twice");
  for (const std::uint32_t bad : {0U, 3U, 33U, 1U << 31}) {
    refuses(Writer{}.pair("general.alignment", k_u32, raw(bad)), "general.alignment is " + std::to_string(bad));
  }
  refuses(Writer{}.number("general.alignment", 32), "general.alignment");
  refuses(Writer{}.tensor("t", {1, 1, 1, 1, 1}, k_F32, "aaaa"), "has 5 dimensions, expected at most 4");
  refuses(Writer{}.tensor("t", {huge, 1}, k_F32, "aaaa"), "a dimension of 2^63 or more");
  refuses(Writer{}.tensor("t", {std::uint64_t{1} << 62, 1U << 30}, k_F32, "aaaa"), "overflows");
  refuses(Writer{}.tensor("t", {std::uint64_t{1} << 61, 2}, k_F32, "aaaa"), "overflows");
  refuses(Writer{}.tensor("t", {2, 200}, k_Q6_K, "aaaa"), "rows of 200 elements, expected a multiple of 256", "Q6_K");
  refuses(Writer{}.tensor("t", {2}, k_F32, "aaaa"), "has 8 bytes at 0", "of which the file holds 4");
  refuses(Writer{}.tensor("t", {1}, k_F32, "aaaa").tensor("t", {1}, k_F32, "aaaa"), "two of tensor \"t\"");
  Writer two;
  two.tensor("t", {16}, k_F32, std::string(64, 'a')).tensor("u", {16}, k_F32, std::string(64, 'a'));
  ASSERT_TRUE(parse(two.bytes()));
  two.move = [](std::size_t i, std::uint64_t at) { return i == 1 ? 32 : at; };
  refuses(two, "tensors \"t\" and \"u\" overlap");
  two.move = [](std::size_t i, std::uint64_t at) { return i == 1 ? 66 : at; };
  refuses(two, "expected a multiple of the alignment, 32");
  two.move = [](std::size_t i, std::uint64_t at) { return i == 1 ? ~std::uint64_t{31} : at; };
  refuses(two, "of the data, of which the file holds 128");
}

class GgufHead : public ::testing::Test {
 protected:
  Result<Checkpoint> open(const Writer& writer, const std::optional<GivenHead>& given = std::nullopt) {
    return open_checkpoint(dir_.write("model.gguf", writer.bytes()), given);
  }
  // A file of this architecture with both matrices.
  static Writer file(std::string_view architecture) {
    Writer writer;
    writer.architecture(architecture).tensor("token_embd.weight", {4, 2}, k_BF16, k_embed);
    writer.tensor("output.weight", {4, 2}, k_BF16, k_head);
    return writer;
  }
  void expect_transforms(const Writer& writer, const Transforms& expected) {
    const auto checkpoint = open(writer);
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    const Transforms& found = checkpoint->head.transforms;
    EXPECT_EQ(found.has_softcap, expected.has_softcap);
    EXPECT_EQ(found.softcap, expected.softcap);
    EXPECT_EQ(found.scale_kind, expected.scale_kind);
    EXPECT_EQ(found.scale, expected.scale);
    EXPECT_EQ(found.order, expected.order);
  }

  TempDir dir_;
};

std::string_view weight_bytes(const Checkpoint& checkpoint) {
  const MatrixView& weight = checkpoint.head.weight;
  return {static_cast<const char*>(weight.data),
          static_cast<std::size_t>(weight.rows * weight.cols) * dtype_size(weight.dtype)};
}

TEST_F(GgufHead, OwnAndTied) {
  const auto own = open(file("qwen3"));
  ASSERT_TRUE(own) << own.error().message;
  EXPECT_EQ(weight_bytes(*own), k_head);
  EXPECT_EQ(own->weight_name, "output.weight");
  EXPECT_EQ(own->weight_path, dir_.path("model.gguf"));
  EXPECT_EQ(own->config.model_type, "qwen3");
  EXPECT_FALSE(own->tied);
  EXPECT_EQ(own->head.vocab_size, 4);
  const auto tied = open(Writer{}.architecture("qwen3").tensor("token_embd.weight", {4, 2}, k_F16, k_embed));
  ASSERT_TRUE(tied) << tied.error().message;
  EXPECT_EQ(weight_bytes(*tied), k_embed);
  EXPECT_EQ(tied->head.weight.dtype, DType::f16);
  EXPECT_TRUE(tied->tied);
  EXPECT_FAILS(open(Writer{}.architecture("stablelm").tensor("token_embd.weight", {4, 2}, k_F16, k_embed)),
               StatusCode::not_found, "no tensor output.weight", "not the head of stablelm");
  EXPECT_FAILS(open(Writer{}.architecture("qwen3")), StatusCode::not_found, "no token_embd.weight");
}

TEST_F(GgufHead, F64) {
  const auto checkpoint = open(Writer{}.architecture("qwen3").tensor("output.weight", {2, 1}, 28, k_head));
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->head.encoded.encoding, Encoding::f64);
  EXPECT_EQ(std::string_view(static_cast<const char*>(checkpoint->head.encoded.data), 16), k_head);
}

TEST_F(GgufHead, QuantisedTypesAreNamed) {
  const auto with = [&](std::uint32_t type, std::size_t bytes, const char* name) {
    return open(Writer{}.architecture("qwen3").tensor(name, {2, 256}, type, std::string(bytes, 'q')));
  };
  EXPECT_FAILS(with(k_Q6_K, 420, "output.weight"), StatusCode::unsupported, "output.weight is Q6_K",
               "takes F16, BF16, F32 and F64", "--output-tensor-type BF16");
  EXPECT_FAILS(with(8, 544, "token_embd.weight"), StatusCode::unsupported, "token_embd.weight is Q8_0",
               "--token-embedding-type BF16");
  EXPECT_FAILS(with(99, 544, "output.weight"), StatusCode::unsupported, "is of the unknown type 99");
}

TEST_F(GgufHead, WhatArchitecturesDo) {
  expect_transforms(file("llama"), {});
  Transforms capped;
  capped.has_softcap = true;
  capped.softcap = 30;
  expect_transforms(file("gemma2"), capped);
  expect_transforms(file("gemma4"), capped);
  expect_transforms(file("gemma3"), {});
  capped.softcap = 20;
  expect_transforms(file("gemma3").number("gemma3.final_logit_softcapping", 20), capped);
  expect_transforms(file("gemma4").number("gemma4.final_logit_softcapping", 0), {});
  Transforms scaled;
  scaled.scale_kind = ScaleKind::multiply;
  scaled.scale = 0.0625F;
  expect_transforms(file("command-r").number("command-r.logit_scale", 0.0625F), scaled);
  expect_transforms(file("command-r"), {});
  scaled.scale_kind = ScaleKind::divide;
  scaled.scale = 8;
  expect_transforms(file("granite").number("granite.logit_scale", 8), scaled);
  expect_transforms(file("granite").number("granite.logit_scale", 1), {});
  scaled = {true, 30, ScaleKind::multiply, 0.25F, TransformOrder::scale_first};
  expect_transforms(file("grok").number("grok.logit_scale", 0.25F).number("grok.final_logit_softcapping", 30), scaled);
  expect_transforms(file("muse-glimmer").number("muse-glimmer.logit_scale", 0.25F), scaled);
}

TEST_F(GgufHead, RefusesWhatItDoesNotKnow) {
  EXPECT_FAILS(open(file("of-my-own")), StatusCode::unsupported, "architecture \"of-my-own\" is not known",
               "--head TENSOR");
  EXPECT_FAILS(open(Writer{}.tensor("output.weight", {4, 2}, k_BF16, k_head)), StatusCode::not_found,
               "general.architecture is missing");
  EXPECT_FAILS(open(file("granite")), StatusCode::not_found, "granite.logit_scale is missing");
  EXPECT_FAILS(open(file("granite").number("granite.logit_scale", 0)), StatusCode::invalid_argument,
               "granite.logit_scale is 0, expected an f32 above 0");
  EXPECT_FAILS(open(file("gemma2").number("gemma2.final_logit_softcapping", -1)), StatusCode::invalid_argument,
               "expected an f32 above 0");
  EXPECT_FAILS(open(file("gemma2").pair("gemma2.final_logit_softcapping", k_u32, raw(30U))),
               StatusCode::invalid_argument, "expected an f32");
  EXPECT_FAILS(open(file("llama").number("llama.logit_scale", 2)), StatusCode::unsupported,
               "llama.logit_scale is 2, and llama.cpp does nothing with it");
  for (const char* name : {"output.bias", "output.scale", "output.lora_a"}) {
    EXPECT_FAILS(open(file("llama").tensor(name, {4}, k_BF16, "aabbccdd")), StatusCode::unsupported, name,
                 "is not one that llama has");
  }
  const auto biased = open(file("qwen2").tensor("output.bias", {4}, k_BF16, "aabbccdd"));
  ASSERT_TRUE(biased) << biased.error().message;
  EXPECT_EQ(biased->head.bias.size, 4);
  EXPECT_FAILS(open(file("qwen2").tensor("output.bias", {3}, k_BF16, "aabbcc")), StatusCode::invalid_argument,
               "output.bias");
}

// A part that has the embedding and not the head would be taken for a tied model.
TEST_F(GgufHead, RefusesPartsAndAdapters) {
  EXPECT_FAILS(open(file("llama").pair("split.count", 2, raw<std::uint16_t>(3))), StatusCode::unsupported,
               "one of 3 parts", "llama-gguf-split --merge");
  EXPECT_FAILS(open(file("llama").pair("general.type", k_string, text("adapter"))), StatusCode::unsupported,
               "general.type is \"adapter\"");
  EXPECT_TRUE(open(file("llama").pair("split.count", 2, raw<std::uint16_t>(1))));
}

TEST_F(GgufHead, Shapes) {
  const auto with = [&](std::vector<std::uint64_t> shape, std::string_view key = "", std::uint32_t value = 0) {
    Writer writer;
    writer.architecture("llama").tensor("output.weight", std::move(shape), k_BF16, k_head);
    if (!key.empty()) writer.pair(key, k_u32, raw(value));
    return open(writer);
  };
  EXPECT_FAILS(with({8}), StatusCode::invalid_argument, "shape [8], expected [vocabulary, hidden]");
  EXPECT_FAILS(with({2, 2, 2}), StatusCode::invalid_argument, "shape [2, 2, 2]");
  EXPECT_FAILS(with({0, 2}), StatusCode::invalid_argument, "shape [0, 2]");
  EXPECT_FAILS(with({4, 2}, "llama.embedding_length", 3), StatusCode::invalid_argument, "llama.embedding_length is 3");
  EXPECT_FAILS(with({4, 2}, "llama.vocab_size", 5), StatusCode::invalid_argument, "the vocabulary has 5 ids");
  EXPECT_FAILS(with({4, 2}, "llama.vocab_size", 0), StatusCode::invalid_argument, "the vocabulary has 0 ids");
  EXPECT_EQ(with({4, 2}, "llama.vocab_size", 3)->head.vocab_size, 3);
  Writer tokens = file("llama");
  tokens.pair("tokenizer.ggml.tokens", k_array, raw(k_u32) + raw<std::uint64_t>(2) + "aaaabbbb");
  EXPECT_EQ(open(tokens)->head.vocab_size, 2);
  Writer differ;
  differ.architecture("qwen3vl").tensor("token_embd.weight", {4, 2}, k_BF16, k_embed);
  differ.tensor("output.weight", {2, 2}, k_BF16, "aabbccdd");
  EXPECT_FAILS(open(differ), StatusCode::unsupported, "output.weight has shape [2, 2]", "expected as many rows");
}

TEST_F(GgufHead, Given) {
  GivenHead given{"output.weight", {}, std::nullopt};
  given.transforms.has_softcap = true;
  given.transforms.softcap = 5;
  const auto checkpoint = open(file("of-my-own").tensor("output.bias", {4}, k_BF16, "aabbccdd"), given);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(weight_bytes(*checkpoint), k_head);
  EXPECT_EQ(checkpoint->head.transforms.softcap, 5.0F);
  EXPECT_EQ(checkpoint->bias_name, "output.bias");
  given.vocab_size = 2;
  EXPECT_EQ(open(file("of-my-own"), given)->head.vocab_size, 2);
  given.vocab_size = 5;
  EXPECT_FAILS(open(file("of-my-own"), given), StatusCode::invalid_argument, "the vocabulary has 5 ids");
  given.tensor = "nothing";
  EXPECT_FAILS(open(file("llama"), given), StatusCode::not_found, "--head: no tensor \"nothing\"");
}

TEST_F(GgufHead, FilesThatAreNone) {
  EXPECT_FAILS(open_checkpoint(dir_.path("none.gguf")), StatusCode::not_found, "none.gguf");
  EXPECT_FAILS(open_checkpoint(dir_.write("other.bin", "GGUF")), StatusCode::invalid_argument, "is a file",
               "a file *.gguf");
  EXPECT_FAILS(open_checkpoint(dir_.write("text.gguf", "not one")), StatusCode::invalid_argument, "GGUF");
}

}  // namespace
}  // namespace isologit::detail::io
