#include "io/peft_adapter.hpp"

#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/text.hpp"
#include "io/families.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";

std::string_view without_prefix(std::string_view tensor) {
  return tensor.starts_with(kPrefix) ? tensor.substr(kPrefix.size()) : tensor;
}

class Reader {
 public:
  Reader(const JsonValue& config, std::string source, std::string_view module)
      : config_(config), source_(std::move(source)), module_(module) {}

  // What the file may say without doing more to a weight than adding scale·b·a.
  Result<void> check() const {
    const JsonValue* type = config_.find("peft_type");
    if (type == nullptr || type->string() == nullptr || *type->string() != "LORA") {
      return refuse("peft_type", type, "\"LORA\", the only kind that is known");
    }
    for (const char* key : {"use_dora", "use_qalora", "fan_in_fan_out", "lora_bias", "alora_invocation_tokens",
                            "arrow_config", "target_parameters"}) {
      const JsonValue* value = config_.find(key);
      if (value == nullptr || value->is_null() || (value->boolean() != nullptr && !*value->boolean())) continue;
      if (value->array() != nullptr && value->array()->empty()) continue;
      return refuse(key, value, "false or null; merge the adapter into the model");
    }
    const JsonValue* bias = config_.find("bias");
    if (bias == nullptr || bias->is_null() || (bias->string() != nullptr && *bias->string() == "none")) return {};
    return refuse("bias", bias, "\"none\"; merge the adapter into the model");
  }

  // alpha / r, or alpha / √r, in f64 as PEFT computes it.
  Result<double> scale(std::int64_t rank) const {
    const auto r = number("r", "rank_pattern");
    if (!r) return r;
    if (*r != static_cast<double>(rank)) {
      return fail(StatusCode::invalid_argument,
                  base::concat(source_, ": r is ", *r, " for ", module_, ", but its lora_A has ", rank,
                               " rows; expected one number"));
    }
    const auto alpha = number("lora_alpha", "alpha_pattern");
    if (!alpha) return alpha;
    const JsonValue* root = config_.find("use_rslora");
    if (root != nullptr && !root->is_null() && root->boolean() == nullptr) {
      return refuse("use_rslora", root, "true or false");
    }
    return root != nullptr && root->boolean() != nullptr && *root->boolean() ? *alpha / std::sqrt(*r) : *alpha / *r;
  }

 private:
  tl::unexpected<Error> refuse(std::string_view key, const JsonValue* value, std::string_view expected) const {
    return fail(StatusCode::unsupported,
                base::concat(source_, ": ", key, " is ", value == nullptr ? std::string("missing") : describe(*value),
                             "; expected ", expected));
  }

  // That of the head's module in the pattern, where one of its names fits, else the adapter's own.
  Result<double> number(const char* key, const char* pattern) const {
    const JsonValue* value = config_.find(key);
    const JsonValue* patterns = config_.find(pattern);
    if (patterns != nullptr && !patterns->is_null() && patterns->object() == nullptr) {
      return refuse(pattern, patterns, "an object");
    }
    if (patterns != nullptr && patterns->object() != nullptr) {
      for (const JsonMember& member : *patterns->object()) {
        // To PEFT these are regular expressions; a dot in a plain name fits itself.
        if (member.key.find_first_of("\\^$*+?()[]{}|") != std::string::npos) {
          return fail(StatusCode::unsupported,
                      base::concat(source_, ": ", pattern, " has the regular expression ", base::in_quotes(member.key),
                                   "; expected names of modules"));
        }
        if (names(member.key)) {
          value = &member.value;
          break;
        }
      }
    }
    if (value != nullptr && value->integer() != nullptr) return static_cast<double>(*value->integer());
    if (const auto* real = value == nullptr ? nullptr : std::get_if<JsonReal>(&value->data); real != nullptr) {
      double result = 0;
      const char* end = real->text.data() + real->text.size();
      if (const auto read = std::from_chars(real->text.data(), end, result);
          read.ec == std::errc() && read.ptr == end) {
        return result;
      }
    }
    return refuse(key, value, "a number");
  }

  bool names(std::string_view key) const {
    return key == module_ || (module_.ends_with(key) && module_[module_.size() - key.size() - 1] == '.');
  }

  const JsonValue& config_;
  std::string source_;
  std::string_view module_;
};

// The matrix of a factor.
Result<MatrixView> factor(const Tensor& tensor, const std::string& path) {
  const std::optional<DType> dtype = core_dtype(tensor.dtype);
  if (!dtype || tensor.shape.size() != 2 || tensor.shape[0] < 1 || tensor.shape[1] < 1) {
    return fail(StatusCode::unsupported,
                base::concat(base::in_quotes(path), ": tensor ", base::in_quotes(tensor.name), " is ",
                             base::printable(tensor.dtype), " of shape ", base::shape_text(tensor.shape),
                             "; expected a matrix of BF16, F16 or F32"));
  }
  return MatrixView{tensor.data, *dtype, tensor.shape[0], tensor.shape[1], tensor.shape[1]};
}

}  // namespace

Result<PeftAdapter> open_peft_adapter(const std::string& directory, const HeadNames& names, const HfConfig& config) {
  const std::string config_path = base::concat(directory, "/adapter_config.json");
  const auto text = MappedFile::open(config_path);
  if (!text) return tl::unexpected(text.error());
  const auto json = parse_json(text->text(), base::in_quotes(config_path));
  if (!json) return tl::unexpected(json.error());
  auto file = SafetensorsFile::open(base::concat(directory, "/adapter_model.safetensors"));
  if (!file) return tl::unexpected(file.error());

  // A tied head is a module of its own, whose weight is the embedding's.
  const bool own_module = names.tied && config.family != nullptr && !config.family->head.empty();
  const std::string_view module = module_of(own_module ? config.family->head : names.weight);
  const Reader reader(*json, base::in_quotes(config_path), module);
  if (auto checked = reader.check(); !checked) return tl::unexpected(checked.error());

  const std::string_view last = module.substr(module.rfind('.') + 1);
  const Tensor* a = nullptr;
  const Tensor* b = nullptr;
  for (const Tensor& tensor : file->tensors()) {
    const std::string_view name = without_prefix(tensor.name);
    const auto in = [&](std::string_view of) {
      return name.starts_with(of) && name.substr(of.size()).starts_with('.');
    };
    if (in(module) && name.substr(module.size()) == ".lora_A.weight") {
      a = &tensor;
    } else if (in(module) && name.substr(module.size()) == ".lora_B.weight") {
      b = &tensor;
    } else if (in(module) || (names.tied && in(module_of(names.weight))) ||
               name.find(base::concat(".", last, ".")) != std::string_view::npos) {
      return fail(StatusCode::unsupported,
                  base::concat(base::in_quotes(file->path()), ": tensor ", base::in_quotes(tensor.name),
                               " may change the head ", module,
                               "; expected lora_A.weight and lora_B.weight of it alone. Merge the adapter into the "
                               "model"));
    }
  }
  PeftAdapter adapter{std::move(*file), {}, {}};
  if (a == nullptr && b == nullptr) return adapter;
  if (a == nullptr || b == nullptr) {
    return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(adapter.file.path()), ": of ", module,
                                                           " there is one of lora_A and lora_B; expected both"));
  }
  const auto view_a = factor(*a, adapter.file.path());
  if (!view_a) return tl::unexpected(view_a.error());
  const auto view_b = factor(*b, adapter.file.path());
  if (!view_b) return tl::unexpected(view_b.error());
  const auto scale = reader.scale(view_a->rows);
  if (!scale) return tl::unexpected(scale.error());
  adapter.name = a->name;
  adapter.lora = {*view_a, *view_b, *scale};
  return adapter;
}

}  // namespace isologit::detail::io
