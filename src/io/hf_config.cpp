#include "io/hf_config.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/hf_transforms.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace isologit::detail::io {
namespace {

// Configurations that are published without vocab_size: what Transformers takes for them.
constexpr std::array<std::pair<std::string_view, std::int64_t>, 2> default_vocab_sizes{{
    {"gemma3_text", 262208},
    {"gemma3n_text", 262400},
}};

const JsonValue* find_set(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

class ConfigReader {
 public:
  ConfigReader(const JsonValue& root, const std::string& source) : root_(root), text_(&root), source_(source) {}

  Result<HfConfig> read() {
    if (root_.object() == nullptr) return refuse("the top level is ", describe(root_), ", expected an object");
    if (const JsonValue* nested = find_set(root_, "text_config")) {
      if (nested->object() == nullptr) return wrong("text_config", *nested, "an object");
      text_ = nested;
    }
    HfConfig config;
    if (auto done = read_names(config); !done) return tl::unexpected(done.error());
    if (auto done = read_sizes(config); !done) return tl::unexpected(done.error());
    if (const JsonValue* tie = find("tie_word_embeddings")) {
      if (tie->boolean() == nullptr) return wrong("tie_word_embeddings", *tie, "true or false");
      config.tie_word_embeddings = *tie->boolean();
    }
    auto transforms = parse_transforms(*text_, config.model_type, source_);
    if (!transforms) return tl::unexpected(transforms.error());
    config.transforms = *transforms;
    if (auto done = read_quantization(config); !done) return tl::unexpected(done.error());
    return config;
  }

 private:
  template <class... Parts>
  tl::unexpected<Error> refuse(const Parts&... parts) const {
    return fail(StatusCode::invalid_argument, base::concat(source_, ": ", parts...));
  }
  tl::unexpected<Error> wrong(std::string_view key, const JsonValue& value, std::string_view expected) const {
    return refuse(key, " is ", describe(value), ", expected ", expected);
  }

  const JsonValue* find(std::string_view key) const {
    const JsonValue* value = find_set(*text_, key);
    return value != nullptr ? value : find_set(root_, key);
  }

  Result<void> read_names(HfConfig& config) const {
    if (const JsonValue* type = find("model_type")) {
      if (type->string() == nullptr) return wrong("model_type", *type, "a string");
      config.model_type = *type->string();
    }
    for (const char* key : {"dtype", "torch_dtype"}) {
      const JsonValue* dtype = find(key);
      // Composite models may map each part to its own type.
      if (dtype == nullptr || dtype->object() != nullptr) continue;
      if (dtype->string() == nullptr) return wrong(key, *dtype, "a string");
      config.dtype = *dtype->string();
      break;
    }
    return {};
  }

  Result<void> read_sizes(HfConfig& config) const {
    for (const auto& [model_type, size] : default_vocab_sizes) {
      if (config.model_type == model_type) config.vocab_size = size;
    }
    for (auto [key, target] : {std::pair("vocab_size", &config.vocab_size), {"hidden_size", &config.hidden_size}}) {
      const JsonValue* value = find(key);
      if (value == nullptr) {
        if (*target > 0) continue;
        return fail(StatusCode::not_found,
                    base::concat(source_, ": ", key, " is missing, expected an integer above 0"));
      }
      if (value->integer() == nullptr || *value->integer() <= 0) return wrong(key, *value, "an integer above 0");
      *target = *value->integer();
    }
    return {};
  }

  Result<void> read_quantization(HfConfig& config) const {
    const JsonValue* value = find("quantization_config");
    if (value == nullptr) return {};
    if (value->object() == nullptr) return wrong("quantization_config", *value, "an object");
    Quantization quantization;
    if (const JsonValue* method = find_set(*value, "quant_method")) {
      if (method->string() == nullptr) return wrong("quantization_config.quant_method", *method, "a string");
      quantization.method = *method->string();
    }
    for (const char* key : {"modules_to_not_convert", "ignore"}) {
      const JsonValue* modules = find_set(*value, key);
      if (modules == nullptr) continue;
      const std::string name = base::concat("quantization_config.", key);
      if (modules->array() == nullptr) return wrong(name, *modules, "an array of strings");
      for (const JsonValue& module : *modules->array()) {
        if (module.string() == nullptr) return refuse(name, " contains ", describe(module), ", expected strings");
        quantization.not_converted.push_back(*module.string());
      }
    }
    config.quantization = std::move(quantization);
    return {};
  }

  const JsonValue& root_;
  const JsonValue* text_;
  const std::string& source_;
};

}  // namespace

bool Quantization::leaves_out(std::string_view module) const {
  return std::any_of(not_converted.begin(), not_converted.end(), [&](std::string_view entry) {
    // "re:" entries are regular expressions such as "re:.*lm_head"; finding the name in one is enough to report it.
    if (entry.starts_with("re:")) return entry.find(module) != std::string_view::npos;
    return entry == module;
  });
}

Result<HfConfig> parse_hf_config(std::string_view text, const std::string& source) {
  return guarded("reading a configuration", [&]() -> Result<HfConfig> {
    auto root = parse_json(text, source);
    if (!root) return tl::unexpected(root.error());
    return ConfigReader(*root, source).read();
  });
}

Result<HfConfig> read_hf_config(const std::string& path) {
  return guarded("reading a configuration", [&]() -> Result<HfConfig> {
    auto file = MappedFile::open(path);
    if (!file) return tl::unexpected(file.error());
    return parse_hf_config(file->text(), base::in_quotes(path));
  });
}

}  // namespace isologit::detail::io
