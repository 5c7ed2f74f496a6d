#include "io/weight_index.hpp"

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

namespace isologit::detail::io {
namespace {

bool stays_inside(std::string_view file) {
  if (file.empty() || file.front() == '/' || file.find('\0') != std::string_view::npos) return false;
  for (std::string_view rest = file;;) {
    const auto slash = rest.find('/');
    if (rest.substr(0, slash) == "..") return false;
    if (slash == std::string_view::npos) return true;
    rest.remove_prefix(slash + 1);
  }
}

}  // namespace

Result<WeightIndex> parse_weight_index(std::string_view text, const std::string& source) {
  return guarded("reading a weight index", [&]() -> Result<WeightIndex> {
    auto root = parse_json(text, source);
    if (!root) return tl::unexpected(root.error());
    const JsonValue* map = root->find("weight_map");
    if (map == nullptr || map->object() == nullptr) {
      return fail(StatusCode::invalid_argument,
                  base::concat(source, ": weight_map is ", map == nullptr ? "missing" : describe(*map),
                               ", expected an object of file names"));
    }
    WeightIndex index;
    for (const JsonMember& member : *map->object()) {
      const std::string* file = member.value.string();
      if (file == nullptr || !stays_inside(*file)) {
        return fail(StatusCode::invalid_argument,
                    base::concat(source, ": weight_map ", base::in_quotes(member.key), " is ", describe(member.value),
                                 ", expected a file name inside the model's directory"));
      }
      index.emplace(member.key, *file);
    }
    return index;
  });
}

Result<WeightIndex> read_weight_index(const std::string& path) {
  return guarded("reading a weight index", [&]() -> Result<WeightIndex> {
    auto file = MappedFile::open(path);
    if (!file) return tl::unexpected(file.error());
    return parse_weight_index(file->text(), base::in_quotes(path));
  });
}

}  // namespace isologit::detail::io
