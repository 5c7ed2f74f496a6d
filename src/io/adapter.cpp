#include "io/adapter.hpp"

#include <filesystem>
#include <system_error>

#include "base/text.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace isologit::detail::io {
namespace {

// PEFT's rule for names in a list: the module itself, or the end of its path.
bool targets(std::string_view name, std::string_view module) {
  return name == module || (module.ends_with(name) && module[module.size() - name.size() - 1] == '.');
}

}  // namespace

Result<void> check_adapter(const std::string& directory, const HeadNames& head) {
  const std::string path = base::concat(directory, "/adapter_config.json");
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  const auto file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  const auto config = parse_json(file->text(), base::in_quotes(path));
  if (!config) return tl::unexpected(config.error());
  const std::string_view module = module_of(head.weight);
  for (const char* key : {"target_modules", "modules_to_save", "target_parameters"}) {
    const JsonValue* value = config->find(key);
    if (value == nullptr || value->is_null()) continue;
    bool hit = value->string() == nullptr || *value->string() != "all-linear";  // which leaves the head out
    if (const JsonValue::Array* names = value->array()) {
      hit = false;
      for (const JsonValue& name : *names) {
        hit = hit || name.string() == nullptr || name.string()->empty() || targets(*name.string(), module) ||
              targets(*name.string(), head.weight);
      }
    }
    if (hit) {
      return fail(StatusCode::unsupported, base::concat(base::in_quotes(path), ": ", key, " is ", describe(*value),
                                                        ", and the adapter may change the head ", module,
                                                        "; merge it into the model, or move it out of the directory"));
    }
  }
  return {};
}

}  // namespace isologit::detail::io
