// From the graphs of llama.cpp, as llama-cpp-python 0.3.36 has it. Not known are, besides what is newer, architectures
// that do something else at the head (minicpm3 scales the hidden state before it, chameleon masks logits after it),
// drafts, and models that are no language models.
#include "io/gguf_architectures.hpp"

#include <algorithm>
#include <iterator>

namespace isologit::detail::io {
namespace {

// The logits are those of the head.
constexpr std::string_view plain_that_tie[] = {
    "afmoe",         "arcee",
    "arctic",        "bailingmoe3",
    "bloom",         "chatglm",
    "cogvlm",        "deci",
    "deepseek",      "deepseek2",
    "deepseek32",    "deepseek2-ocr",
    "dots3note",     "dream",
    "ernie4_5",      "exaone",
    "ernie4_5-moe",  "exaone-moe",
    "exaone4",       "falcon",
    "falcon-h1",     "gemma",
    "glm-dsa",       "glm4",
    "glm4moe",       "gpt2",
    "grovemoe",      "hrm_text",
    "hunyuan-moe",   "hy_v3",
    "hunyuan-dense", "hunyuan_vl",
    "jais2",         "jamba",
    "laguna",        "lfm2",
    "lfm2moe",       "llada",
    "llama",         "llama4",
    "maincoder",     "mamba",
    "mamba2",        "mistral3",
    "minimax-01",    "mistral4",
    "mpt",           "nanbeige",
    "nemotron_h",    "olmo",
    "openelm",       "nemotron_h_moe",
    "paddleocr",     "pangu-embedded",
    "phi3",          "plamo2",
    "plamo3",        "plm",
    "qwen2vl",       "qwen3",
    "qwen35",        "qwen35moe",
    "qwen3moe",      "qwen3next",
    "qwen3vl",       "qwen3vlmoe",
    "qwen4exp",      "refact",
    "rnd1",          "seed_oss",
    "smallthinker",  "smollm3",
    "spark2_5",      "starcoder",
    "starcoder2",
};
constexpr std::string_view plain_that_do_not_tie[] = {
    "apertus",  "arwkv7",      "baichuan",   "bailingmoe", "bailingmoe2", "codeshell", "dbrx",
    "dots1",    "glm5-next",   "gpt-oss",    "gptneox",    "hy_v4",       "internlm2", "jais",
    "kimi-k3",  "kimi-linear", "llada-moe",  "maple",      "mellum",      "mimo2",     "minimax-m2",
    "nemotron", "minimax-m3",  "olmo2",      "olmoe",      "orion",       "plamo",     "qwen",
    "qwen2moe", "rwkv6",       "rwkv6qwen2", "rwkv7",      "stablelm",    "step35",    "xverse",
};

constexpr GgufStep required{};
constexpr GgufStep required_or_zero{.required = true, .when_absent = std::nullopt, .zero_is_none = true};
constexpr GgufStep optional_or_zero{.required = false, .when_absent = std::nullopt, .zero_is_none = true};
constexpr GgufStep absent_is(float number, bool zero_is_none = false) { return {false, number, zero_is_none}; }

constexpr GgufArchitecture others[] = {
    {.name = "qwen2", .has_bias = true},
    {.name = "phi2", .ties = false, .has_bias = true},
    {.name = "phimoe", .ties = false, .has_bias = true},
    {.name = "command-r", .scale_kind = ScaleKind::multiply, .scale = optional_or_zero},
    {.name = "cohere2", .scale_kind = ScaleKind::multiply, .scale = required_or_zero},
    {.name = "cohere2moe", .scale_kind = ScaleKind::multiply, .scale = required_or_zero},
    {.name = "talkie", .ties = false, .scale_kind = ScaleKind::multiply, .scale = required},
    {.name = "granite", .scale_kind = ScaleKind::divide, .scale = required},
    {.name = "granitemoe", .scale_kind = ScaleKind::divide, .scale = required},
    {.name = "granite_swa", .scale_kind = ScaleKind::divide, .scale = required},
    {.name = "graniteswitch", .scale_kind = ScaleKind::divide, .scale = required},
    {.name = "granitehybrid", .scale_kind = ScaleKind::divide, .scale = optional_or_zero},
    // Older files have no scale, and what llama.cpp takes for it then is the inverse of what the model does.
    {.name = "minicpm", .scale_kind = ScaleKind::divide, .scale = required},
    {.name = "gemma2", .softcap = absent_is(30.0F)},
    {.name = "gemma3", .softcap = optional_or_zero},
    {.name = "gemma3n", .softcap = absent_is(30.0F)},
    {.name = "gemma4", .softcap = absent_is(30.0F, true)},
    {.name = "grok",
     .scale_kind = ScaleKind::multiply,
     .order = TransformOrder::scale_first,
     .scale = absent_is(0.5773502691896257F),
     .softcap = optional_or_zero},
    {.name = "muse-glimmer",
     .ties = false,
     .scale_kind = ScaleKind::multiply,
     .order = TransformOrder::scale_first,
     .scale = required,
     .softcap = absent_is(30.0F, true)},
};

template <class Names>
bool holds(const Names& names, std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

std::optional<GgufArchitecture> find_gguf_architecture(std::string_view name) {
  if (holds(plain_that_tie, name)) return GgufArchitecture{.name = name};
  if (holds(plain_that_do_not_tie, name)) return GgufArchitecture{.name = name, .ties = false};
  const auto is_it = [&](const GgufArchitecture& one) { return one.name == name; };
  const auto* const found = std::find_if(std::begin(others), std::end(others), is_it);
  return found == std::end(others) ? std::nullopt : std::optional(*found);
}

}  // namespace isologit::detail::io
