#include "io/hf_config.hpp"

#include <algorithm>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace isologit::detail::io {
namespace {

const JsonValue* find_set(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('.') + 1); }

class ConfigReader {
 public:
  ConfigReader(const JsonValue& root, const std::string& source) : root_(root), source_(source) {}

  Result<HfConfig> read() {
    if (root_.object() == nullptr) return refuse("the top level is ", describe(root_), ", expected an object");
    const Result<const Family*> family = find_family(root_, source_);
    if (!family) return tl::unexpected(family.error());
    family_ = *family;
    HfConfig config;
    config.family = family_;
    config.tied = family_->head.empty() || family_->tie_when_absent;
    for (const auto& part : {&ConfigReader::read_common, &ConfigReader::read_text, &ConfigReader::read_sizes,
                             &ConfigReader::read_tie, &ConfigReader::read_steps, &ConfigReader::check_other_steps}) {
      if (auto done = (this->*part)(config); !done) return tl::unexpected(done.error());
    }
    return config;
  }

  // Of a head that is given.
  Result<HfConfig> read(const GivenHead& given) {
    if (root_.object() == nullptr) return refuse("the top level is ", describe(root_), ", expected an object");
    HfConfig config;
    if (auto done = read_common(config); !done) return tl::unexpected(done.error());
    config.transforms = given.transforms;
    if (given.vocab_size) {
      config.vocab_size = *given.vocab_size;
      return config;
    }
    const JsonValue* text = find_set(root_, "text_config");
    const JsonValue* size = find_set(text != nullptr && text->object() != nullptr ? *text : root_, "vocab_size");
    if (size == nullptr) {
      return fail(StatusCode::not_found, base::concat(source_, ": vocab_size is missing; say it: --vocab-size N"));
    }
    if (auto done = read_size("vocab_size", *size, config.vocab_size); !done) return tl::unexpected(done.error());
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

  // The value at a path of the family; null when it is absent. Classes that may be flat are looked up at the top where
  // the object of the text model is absent.
  const JsonValue* find(std::string_view path) const {
    const JsonValue* object = &root_;
    const std::size_t dot = path.rfind('.');
    if (dot == std::string_view::npos) return root_.find(path);
    for (std::string_view rest = path.substr(0, dot); object != nullptr && !rest.empty();) {
      const std::size_t end = std::min(rest.find('.'), rest.size());
      object = find_set(*object, rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    if (object == nullptr && family_->flat) object = &root_;
    return object == nullptr ? nullptr : object->find(path.substr(dot + 1));
  }

  const JsonValue* find_value(std::string_view path) const {
    const JsonValue* value = find(path);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  Result<void> read_common(HfConfig& config) const {
    if (const JsonValue* type = find_set(root_, "model_type")) {
      if (type->string() == nullptr) return wrong("model_type", *type, "a string");
      config.model_type = *type->string();
    }
    for (const char* key : {"dtype", "torch_dtype"}) {
      const JsonValue* dtype = find_set(root_, key);
      // Composite models may map each part to its own type.
      if (dtype == nullptr || dtype->object() != nullptr) continue;
      if (dtype->string() == nullptr) return wrong(key, *dtype, "a string");
      config.dtype = *dtype->string();
      break;
    }
    return read_quantization(config);
  }

  Result<void> read_text(HfConfig&) const {
    if (family_->text.empty()) return {};
    const JsonValue* text = find_set(root_, family_->text);
    if (text == nullptr && !family_->flat) {
      return fail(StatusCode::not_found, base::concat(source_, ": ", family_->text, " is missing"));
    }
    if (text != nullptr && text->object() == nullptr) return wrong(family_->text, *text, "an object");
    return {};
  }

  Result<void> read_size(std::string_view key, const JsonValue& value, std::int64_t& size) const {
    if (value.integer() == nullptr || *value.integer() <= 0) return wrong(key, value, "an integer above 0");
    size = *value.integer();
    return {};
  }

  // The model_type of the object that has the key.
  std::string type_at(std::string_view path) const {
    if (path.find('.') == std::string_view::npos) return family_->model_type;
    const JsonValue* text = find_set(root_, family_->text);
    const JsonValue* type = text == nullptr ? nullptr : find_set(*text, "model_type");
    return type == nullptr || type->string() == nullptr ? family_->text_types.front() : *type->string();
  }

  Result<void> read_sizes(HfConfig& config) const {
    if (!family_->hidden.empty()) {
      if (const JsonValue* hidden = find_value(family_->hidden)) {
        if (auto done = read_size(family_->hidden, *hidden, config.hidden_size); !done) return done;
      }
    }
    if (const JsonValue* size = find_value(family_->vocab)) return read_size(family_->vocab, *size, config.vocab_size);
    if (last_part(family_->vocab) == "vocab_size") config.vocab_size = default_vocab_size(type_at(family_->vocab));
    if (config.vocab_size > 0) return {};
    return fail(StatusCode::not_found,
                base::concat(source_, ": ", family_->vocab, " is missing, expected an integer above 0"));
  }

  Result<void> read_tie(HfConfig& config) const {
    if (family_->tie_key.empty()) return {};
    const JsonValue* tie = find_value(family_->tie_key);
    if (tie == nullptr) return {};
    if (tie->boolean() == nullptr) return wrong(family_->tie_key, *tie, "true or false");
    config.tied = *tie->boolean();
    return {};
  }

  Result<void> read_steps(HfConfig& config) const {
    bool scaled = false;
    for (const FamilyStep& step : family_->steps) {
      const JsonValue* value = find(step.key);
      std::optional<float> number = value == nullptr ? step.when_absent : std::nullopt;
      if (value != nullptr && !value->is_null()) {
        number = to_f32(*value);
        const bool sign_is_free = step.effect == Effect::multiply;
        if (!number || *number == 0.0F || (!sign_is_free && *number < 0.0F)) {
          return wrong(step.key, *value,
                       base::concat("a number ", sign_is_free ? "other than 0" : "above 0",
                                    " within the range of float32, or null"));
        }
      }
      if (!number) continue;
      if (step.effect == Effect::softcap) {
        if (scaled) config.transforms.order = TransformOrder::scale_first;
        config.transforms.has_softcap = true;
        config.transforms.softcap = *number;
      } else if (*number != 1.0F) {
        scaled = true;
        config.transforms.scale_kind = step.effect == Effect::multiply ? ScaleKind::multiply : ScaleKind::divide;
        config.transforms.scale = *number;
      }
    }
    return {};
  }

  // A key that other classes take for a step, with a value that does something, may be one for whoever wrote it.
  Result<void> check_other_steps(HfConfig&) const {
    const JsonValue* text = family_->text.empty() ? nullptr : find_set(root_, family_->text);
    if (auto done = check_other_steps(root_, ""); !done || text == nullptr) return done;
    return check_other_steps(*text, family_->text + ".");
  }

  Result<void> check_other_steps(const JsonValue& object, const std::string& prefix) const {
    for (const JsonMember& member : *object.object()) {
      if (member.value.is_null() || !is_step_of_some_class(member.key)) continue;
      if (to_f32(member.value) == 1.0F || (member.value.boolean() != nullptr && !*member.value.boolean())) continue;
      if (knows(prefix + member.key) || (family_->flat && knows(base::concat(family_->text, ".", member.key))))
        continue;
      return fail(StatusCode::unsupported,
                  base::concat(source_, ": ", prefix, member.key, " is ", describe(member.value), ", and ",
                               family_->architecture, " has no such key; set it to null if it does nothing"));
    }
    return {};
  }

  bool knows(std::string_view path) const {
    const auto is_it = [&](const FamilyStep& step) { return step.key == path; };
    return family_->vocab == path ||
           std::find(family_->ignored.begin(), family_->ignored.end(), path) != family_->ignored.end() ||
           std::any_of(family_->steps.begin(), family_->steps.end(), is_it);
  }

  Result<void> read_quantization(HfConfig& config) const {
    const JsonValue* value = find_set(root_, "quantization_config");
    if (value == nullptr && find_set(root_, "text_config") != nullptr) {
      value = find_set(*find_set(root_, "text_config"), "quantization_config");
    }
    if (value == nullptr) return {};
    if (value->object() == nullptr) return wrong("quantization_config", *value, "an object");
    Quantization quantization;
    if (const JsonValue* method = find_set(*value, "quant_method")) {
      if (method->string() == nullptr) return wrong("quantization_config.quant_method", *method, "a string");
      quantization.method = *method->string();
    }
    if (quantization.method == "modelopt") {
      const JsonValue* algorithm = find_set(*value, "quant_algo");
      const bool known = algorithm != nullptr && algorithm->string() != nullptr && *algorithm->string() == "FP8";
      if (!known) {
        quantization.changes = base::concat("quant_algo is ", algorithm == nullptr ? "absent" : describe(*algorithm),
                                            ", expected \"FP8\" of modelopt");
      }
    }
    for (const char* key : {"modules_to_not_convert", "ignore", "exclude_modules"}) {
      const JsonValue* modules = find_set(*value, key);
      if (modules == nullptr) continue;
      const std::string name = base::concat("quantization_config.", key);
      if (modules->array() == nullptr) return wrong(name, *modules, "an array of strings");
      for (const JsonValue& module : *modules->array()) {
        if (module.string() == nullptr) return refuse(name, " contains ", describe(module), ", expected strings");
        quantization.not_converted.push_back(*module.string());
      }
    }
    if (auto done = read_blocks(*value, quantization); !done) return done;
    config.quantization = std::move(quantization);
    return {};
  }

  // The blocks that share a scale, where DeepSeek's models and compressed-tensors say it, and what changes weights
  // beyond scales.
  Result<void> read_blocks(const JsonValue& value, Quantization& quantization) const {
    if (auto done = read_block("weight_block_size", value.find("weight_block_size"), quantization); !done) return done;
    const JsonValue* groups = find_set(value, "config_groups");
    if (groups != nullptr && groups->object() == nullptr) {
      return wrong("quantization_config.config_groups", *groups, "an object");
    }
    for (const JsonMember& group : groups == nullptr ? JsonValue::Object() : *groups->object()) {
      const JsonValue* weights = group.value.object() == nullptr ? nullptr : find_set(group.value, "weights");
      if (weights == nullptr || weights->object() == nullptr) continue;
      const JsonValue* block = weights->find("block_structure");
      if (auto done = read_block("block_structure", block, quantization); !done) return done;
      if (auto done = read_group(*weights, quantization); !done) return done;
    }
    if (const JsonValue* transforms = find_set(value, "transform_config")) {
      const bool none = transforms->object() != nullptr && transforms->object()->empty();
      if (!none) quantization.changes = base::concat("transform_config is ", describe(*transforms));
    }
    return {};
  }

  // Of compressed-tensors: as many elements of a row as group_size says share a scale. -1 is a whole row.
  Result<void> read_group(const JsonValue& weights, Quantization& quantization) const {
    const JsonValue* strategy = find_set(weights, "strategy");
    if (strategy != nullptr && strategy->string() != nullptr && *strategy->string() == "tensor_group") {
      quantization.changes = "strategy is \"tensor_group\", scales of scales";
    }
    const JsonValue* order = find_set(weights, "actorder");
    const bool by_group = order != nullptr && (order->string() == nullptr || *order->string() == "group");
    if (by_group) quantization.changes = base::concat("actorder is ", describe(*order));
    const JsonValue* size = find_set(weights, "group_size");
    if (size == nullptr) return {};
    if (size->integer() == nullptr || (*size->integer() < 1 && *size->integer() != -1)) {
      return wrong("quantization_config: group_size", *size, "an integer above 0, or -1");
    }
    if (*size->integer() == -1) return {};
    return add_block("group_size", {1, *size->integer()}, quantization);
  }

  Result<void> read_block(std::string_view key, const JsonValue* value, Quantization& quantization) const {
    if (value == nullptr || value->is_null()) return {};
    const std::string name = base::concat("quantization_config: ", key);
    const JsonValue::Array* pair = value->array();
    std::vector<std::int64_t> block;
    for (const JsonValue& size : pair == nullptr ? JsonValue::Array() : *pair) {
      if (size.integer() != nullptr && *size.integer() > 0) block.push_back(*size.integer());
    }
    if (pair == nullptr || pair->size() != 2 || block.size() != 2) return wrong(name, *value, "two integers above 0");
    return add_block(key, std::move(block), quantization);
  }

  Result<void> add_block(std::string_view key, std::vector<std::int64_t> block, Quantization& quantization) const {
    const std::string name = base::concat("quantization_config: ", key);
    if (!quantization.block.empty() && quantization.block != block) {
      return refuse(name, " is ", base::shape_text(block), " and elsewhere ", base::shape_text(quantization.block),
                    ", expected one block size");
    }
    quantization.block = std::move(block);
    return {};
  }

  const JsonValue& root_;
  const Family* family_ = nullptr;  // null: the head is given
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

Result<HfConfig> parse_hf_config(std::string_view text, const std::string& source, const GivenHead* given) {
  return guarded("reading a configuration", [&]() -> Result<HfConfig> {
    auto root = parse_json(text, source);
    if (!root) return tl::unexpected(root.error());
    ConfigReader reader(*root, source);
    return given == nullptr ? reader.read() : reader.read(*given);
  });
}

Result<HfConfig> read_hf_config(const std::string& path, const GivenHead* given) {
  return guarded("reading a configuration", [&]() -> Result<HfConfig> {
    auto file = MappedFile::open(path);
    if (!file) return tl::unexpected(file.error());
    return parse_hf_config(file->text(), base::in_quotes(path), given);
  });
}

}  // namespace isologit::detail::io
