#include "io/hf_transforms.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

enum class Effect { softcap, multiply, divide, unknown };

struct Rule {
  std::string_view key;
  std::string_view family;  // how model_type begins
  Effect effect;
};

constexpr std::array rules{
    Rule{"final_logit_softcapping", "", Effect::softcap},
    Rule{"logits_soft_cap", "recurrent_gemma", Effect::softcap},
    Rule{"output_logit_soft_cap", "xlstm", Effect::softcap},
    Rule{"logit_scale", "cohere", Effect::multiply},
    Rule{"logits_scaling", "granite", Effect::divide},
    Rule{"logits_scaling", "hyperclovax", Effect::multiply},
    Rule{"lm_head_multiplier", "falcon_h1", Effect::multiply},
    // A scale before the softcap, which the contract's order of transforms has no place for.
    Rule{"output_multiplier", "muse", Effect::unknown},
};

struct ClassDefault {
  std::string_view model_type;
  std::string_view key;
  float value;
};

// What Transformers takes when the key is absent; families whose default is "not applied" need no line.
constexpr std::array class_defaults{
    ClassDefault{"gemma2", "final_logit_softcapping", 30.0F},
    ClassDefault{"gemma3n_text", "final_logit_softcapping", 30.0F},
    ClassDefault{"vaultgemma", "final_logit_softcapping", 30.0F},
    ClassDefault{"nanochat", "final_logit_softcapping", 15.0F},
    ClassDefault{"recurrent_gemma", "logits_soft_cap", 30.0F},
    ClassDefault{"xlstm", "output_logit_soft_cap", 30.0F},
    ClassDefault{"cohere", "logit_scale", 0.0625F},
    ClassDefault{"cohere2", "logit_scale", 0.0625F},
    ClassDefault{"cohere2_moe", "logit_scale", 0.0625F},
    ClassDefault{"granite_docling_text", "logits_scaling", 4.0F},
};

// The f32 nearest to a number of the document; nothing for anything else, and for numbers outside the range of f32.
std::optional<float> to_f32(const JsonValue& value) {
  if (const std::int64_t* integer = value.integer()) return static_cast<float>(*integer);
  const JsonReal* real = std::get_if<JsonReal>(&value.data);
  if (real == nullptr) return std::nullopt;
  float result = 0.0F;
  const char* end = real->text.data() + real->text.size();
  const auto [stop, error] = std::from_chars(real->text.data(), end, result);
  if (error != std::errc() || stop != end || !std::isfinite(result)) return std::nullopt;
  return result;
}

Result<float> read_parameter(const Rule& rule, const JsonValue& value, const std::string& source) {
  const bool sign_is_free = rule.effect == Effect::multiply;
  const std::optional<float> number = to_f32(value);
  if (!number || *number == 0.0F || (!sign_is_free && *number < 0.0F)) {
    return fail(StatusCode::invalid_argument,
                base::concat(source, ": ", rule.key, " is ", describe(value), ", expected a number ",
                             sign_is_free ? "other than 0" : "above 0", " within the range of float32, or null"));
  }
  return *number;
}

void apply(const Rule& rule, float parameter, Transforms& transforms) {
  if (rule.effect == Effect::softcap) {
    transforms.has_softcap = true;
    transforms.softcap = parameter;
  } else {
    transforms.scale_kind = rule.effect == Effect::multiply ? ScaleKind::multiply : ScaleKind::divide;
    transforms.scale = parameter;
  }
}

// The rule for this key and family, or the key's first rule with an unknown effect.
Rule rule_for(std::string_view key, std::string_view model_type) {
  for (const Rule& rule : rules) {
    if (rule.key == key && model_type.starts_with(rule.family)) return rule;
  }
  return {key, "", Effect::unknown};
}

}  // namespace

Result<Transforms> parse_transforms(const JsonValue& config, const std::string& model_type, const std::string& source) {
  Transforms transforms;
  for (const ClassDefault& entry : class_defaults) {
    if (entry.model_type == model_type && config.find(entry.key) == nullptr) {
      apply(rule_for(entry.key, model_type), entry.value, transforms);
    }
  }
  std::string_view previous;
  for (const Rule& listed : rules) {
    if (listed.key == previous) continue;  // a key with several families has several lines
    previous = listed.key;
    const JsonValue* value = config.find(listed.key);
    if (value == nullptr || value->is_null()) continue;
    const Rule rule = rule_for(listed.key, model_type);
    if (rule.effect == Effect::unknown) {
      if (to_f32(*value) == 1.0F) continue;
      return fail(StatusCode::unsupported,
                  base::concat(source, ": ", listed.key, " is ", describe(*value),
                               ", and what it does to the logits of model_type ", base::in_quotes(model_type),
                               " is not known to isologit; set it to null if it does nothing"));
    }
    const auto parameter = read_parameter(rule, *value, source);
    if (!parameter) return tl::unexpected(parameter.error());
    apply(rule, *parameter, transforms);
  }
  return transforms;
}

}  // namespace isologit::detail::io
