#include "io/families.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <utility>

#include "base/text.hpp"
#include "io/families_text.hpp"

namespace isologit::detail::io {
namespace {

struct Refusal {
  std::string model_type;
  std::string architecture;
  std::string why;
};

struct Table {
  std::vector<Family> families;
  std::vector<Refusal> refused;
  std::map<std::string, std::int64_t, std::less<>> vocab_sizes;
  std::vector<std::string> step_keys;
};

// The table is the project's own, and its tests read all of it: what is absent is empty.
std::string text_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value != nullptr && value->string() != nullptr ? *value->string() : std::string();
}

bool flag_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value != nullptr && value->boolean() != nullptr && *value->boolean();
}

const JsonValue::Array& list_of(const JsonValue& object, std::string_view key) {
  static const JsonValue::Array none;
  const JsonValue* value = object.find(key);
  return value != nullptr && value->array() != nullptr ? *value->array() : none;
}

std::vector<std::string> texts_of(const JsonValue& object, std::string_view key) {
  std::vector<std::string> texts;
  for (const JsonValue& item : list_of(object, key)) texts.push_back(*item.string());
  return texts;
}

FamilyStep read_step(const JsonValue& object) {
  FamilyStep step{text_of(object, "key"), Effect::softcap, std::nullopt};
  const std::string does = text_of(object, "does");
  if (does == "scale") step.effect = Effect::multiply;
  if (does == "divide") step.effect = Effect::divide;
  if (const JsonValue* number = object.find("default")) step.when_absent = to_f32(*number);
  return step;
}

Family read_family(const JsonValue& object) {
  Family family{.model_type = text_of(object, "model_type"),
                .architecture = text_of(object, "architecture"),
                .text = text_of(object, "text"),
                .text_types = texts_of(object, "text_types"),
                .flat = flag_of(object, "flat"),
                .head = text_of(object, "head"),
                .embedding = text_of(object, "embedding"),
                .also = texts_of(object, "also"),
                .tie_key = {},
                .tie_when_absent = false,
                .bias = text_of(object, "bias"),
                .vocab = text_of(object, "vocab"),
                .hidden = text_of(object, "hidden"),
                .steps = {},
                .ignored = texts_of(object, "ignored"),
                .takes_last_hidden = text_of(object, "input") == "last_hidden_state",
                .beside = texts_of(object, "beside")};
  if (const JsonValue* tie = object.find("tie")) {
    family.tie_key = text_of(*tie, "key");
    family.tie_when_absent = flag_of(*tie, "default");
  }
  for (const JsonValue& step : list_of(object, "transforms")) family.steps.push_back(read_step(step));
  return family;
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('.') + 1); }

Table read_table() {
  Table table;
  const Result<JsonValue> root = parse_json(families_text, "families.json");
  if (!root) return table;  // a test reads it
  for (const JsonValue& object : list_of(*root, "families")) {
    table.families.push_back(read_family(object));
    for (const FamilyStep& step : table.families.back().steps) table.step_keys.emplace_back(last_part(step.key));
  }
  for (const JsonValue& object : list_of(*root, "refused")) {
    table.refused.push_back({text_of(object, "model_type"), text_of(object, "architecture"), text_of(object, "why")});
  }
  if (const JsonValue* sizes = root->find("vocab_sizes")) {
    for (const JsonMember& member : *sizes->object()) table.vocab_sizes.emplace(member.key, *member.value.integer());
  }
  for (std::string& key : texts_of(*root, "foreign_keys")) table.step_keys.push_back(std::move(key));
  return table;
}

const Table& table() {
  static const Table read = read_table();
  return read;
}

struct Names {
  std::string model_type;
  std::string architecture;  // empty: the configuration names none
};

Result<Names> read_names(const JsonValue& config, const std::string& source) {
  Names names;
  if (const JsonValue* type = config.find("model_type"); type != nullptr && !type->is_null()) {
    if (type->string() == nullptr) {
      return fail(StatusCode::invalid_argument,
                  base::concat(source, ": model_type is ", describe(*type), ", expected a string"));
    }
    names.model_type = *type->string();
  }
  const JsonValue* classes = config.find("architectures");
  if (classes == nullptr || classes->is_null()) return names;
  if (classes->array() == nullptr || classes->array()->size() != 1 || classes->array()->front().string() == nullptr) {
    return fail(StatusCode::unsupported, base::concat(source, ": architectures is ", describe(*classes),
                                                      ", expected an array with the name of one class"));
  }
  names.architecture = *classes->array()->front().string();
  return names;
}

bool fits(const Family& family, const Names& names, const JsonValue& config) {
  if (family.model_type != names.model_type) return false;
  if (!names.architecture.empty() && family.architecture != names.architecture) return false;
  if (family.text.empty()) return true;
  const JsonValue* text = config.find(family.text);
  const JsonValue* type = text == nullptr ? nullptr : text->find("model_type");
  const std::string name = type != nullptr && type->string() != nullptr ? *type->string() : family.text_types.front();
  return std::find(family.text_types.begin(), family.text_types.end(), name) != family.text_types.end();
}

std::string in_words(const Names& names, const JsonValue& config) {
  std::string words = base::concat("model_type ", base::in_quotes(names.model_type));
  if (!names.architecture.empty()) words += base::concat(", architecture ", base::in_quotes(names.architecture));
  if (const JsonValue* text = config.find("text_config"); text != nullptr) {
    if (const JsonValue* type = text->find("model_type"); type != nullptr && type->string() != nullptr) {
      words += base::concat(", a text model of ", base::in_quotes(*type->string()));
    }
  }
  return words;
}

}  // namespace

Result<const Family*> find_family(const JsonValue& config, const std::string& source) {
  const Result<Names> names = read_names(config, source);
  if (!names) return tl::unexpected(names.error());
  const Family* found = nullptr;
  for (const Family& family : table().families) {
    if (!fits(family, *names, config)) continue;
    if (found != nullptr && found->architecture != family.architecture) {
      return fail(StatusCode::unsupported,
                  base::concat(source, ": architectures is missing, and models of ", in_words(*names, config),
                               " may be ", found->architecture, " or ", family.architecture, "; say which"));
    }
    if (found == nullptr) found = &family;
  }
  if (found != nullptr) return found;
  for (const Refusal& refusal : table().refused) {
    if (refusal.model_type != names->model_type || refusal.architecture != names->architecture) continue;
    return fail(StatusCode::unsupported,
                base::concat(source, ": the head of ", in_words(*names, config),
                             " is not taken by itself: ", refusal.why, ". ", how_to_name_a_head()));
  }
  return fail(StatusCode::unsupported, base::concat(source, ": the head of ", in_words(*names, config),
                                                    " is not known. ", how_to_name_a_head()));
}

std::int64_t default_vocab_size(std::string_view model_type) {
  const auto found = table().vocab_sizes.find(model_type);
  return found == table().vocab_sizes.end() ? 0 : found->second;
}

bool is_step_of_some_class(std::string_view key) {
  const std::vector<std::string>& keys = table().step_keys;
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

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

std::string how_to_name_a_head() {
  return "If you know it, say what it is: --head TENSOR with --softcap C, --scale S or --divide D for what the model "
         "does to its logits, or with --assume-plain-head if it does nothing; --vocab-size N where config.json does "
         "not say it";
}

}  // namespace isologit::detail::io
