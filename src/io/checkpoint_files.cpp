#include "io/checkpoint_files.hpp"

#include <filesystem>
#include <system_error>
#include <utility>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace

Result<CheckpointFiles> CheckpointFiles::open(const std::string& directory) {
  CheckpointFiles files;
  files.directory_ = directory;
  const std::string single_path = base::concat(directory, "/", single_name);
  const std::string index_path = base::concat(directory, "/", index_name);
  if (exists(single_path)) {
    auto file = SafetensorsFile::open(single_path);
    if (!file) return tl::unexpected(file.error());
    for (const Tensor& tensor : file->tensors()) files.index_.emplace(tensor.name, single_name);
    files.mapped_.emplace(single_name, std::move(*file));
  } else if (exists(index_path)) {
    auto index = read_weight_index(index_path);
    if (!index) return tl::unexpected(index.error());
    files.index_ = std::move(*index);
  } else {
    return fail(StatusCode::not_found, base::concat(base::in_quotes(directory), " holds neither ", single_name, " nor ",
                                                    index_name, "; only weights in safetensors are read"));
  }
  return files;
}

std::set<std::string, std::less<>> CheckpointFiles::names() const {
  std::set<std::string, std::less<>> all;
  for (const auto& [name, file] : index_) all.insert(all.end(), name);
  return all;
}

Result<CheckpointFiles::Found> CheckpointFiles::load(std::string_view name) {
  const auto entry = index_.find(name);
  if (entry == index_.end()) {
    return fail(StatusCode::not_found,
                base::concat(base::in_quotes(directory_), " has no tensor ", base::in_quotes(name)));
  }
  const std::string& file_name = entry->second;
  auto mapped = mapped_.find(file_name);
  if (mapped == mapped_.end()) {
    auto file = SafetensorsFile::open(base::concat(directory_, "/", file_name));
    if (!file) {
      return fail(file.error().code, base::concat("the shard that ", index_name, " names for tensor ",
                                                  base::in_quotes(name), " cannot be used: ", file.error().message));
    }
    mapped = mapped_.emplace(file_name, std::move(*file)).first;
  }
  const Tensor* tensor = mapped->second.find(name);
  if (tensor == nullptr) {
    return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(mapped->second.path()), " has no tensor ",
                                                           base::in_quotes(name), ", though ", index_name, " says so"));
  }
  return Found{tensor, mapped->second.path()};
}

}  // namespace isologit::detail::io
