#include "io/hf_cache.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/mapped_file.hpp"

namespace isologit::detail::io {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string cache_directory() {
  if (std::string cache = environment("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (std::string home = environment("HF_HOME"); !home.empty()) return home + "/hub";
  return environment("HOME") + "/.cache/huggingface/hub";
}

bool is_directory(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

// "name" or "org/name", of the characters that the hub allows and so unable to leave the cache.
bool is_model_id(std::string_view model) {
  if (model.empty() || model.size() > 200 || std::count(model.begin(), model.end(), '/') > 1) return false;
  if (model.find("..") != std::string_view::npos || model.find("--") != std::string_view::npos) return false;
  char previous = '/';
  for (char c : model) {
    const bool alphanumeric = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    if (!alphanumeric && c != '-' && c != '.' && c != '/') return false;
    if (!alphanumeric && previous == '/') return false;  // no part is empty or begins with '-' or '.'
    previous = c;
  }
  return previous != '/';
}

// The commit in refs/main; empty when the file is missing or holds anything but one hexadecimal word.
std::string read_commit(const std::string& path) {
  auto file = MappedFile::open(path);
  if (!file) return "";
  std::string commit(file->text());
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r')) commit.pop_back();
  const bool hexadecimal = commit.find_first_not_of("0123456789abcdef") == std::string::npos;
  return hexadecimal ? commit : "";
}

}  // namespace

Result<std::string> find_model(const std::string& model) {
  return guarded("looking for a model", [&]() -> Result<std::string> {
    if (is_directory(model)) return model;
    std::error_code ignored;
    if (std::filesystem::exists(model, ignored)) {
      return fail(StatusCode::invalid_argument,
                  base::concat(base::in_quotes(model),
                               " is a file; name the directory that holds config.json, or a file *.gguf"));
    }
    if (!is_model_id(model)) {
      return fail(StatusCode::not_found, base::concat("there is no directory ", base::in_quotes(model),
                                                      ", and it is not a model id such as org/name"));
    }
    std::string folder = "models--" + model;
    if (const auto slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
    const std::string cache = cache_directory();
    const std::string repository = base::concat(cache, "/", folder);
    const std::string commit = read_commit(repository + "/refs/main");
    const std::string snapshot = base::concat(repository, "/snapshots/", commit);
    if (commit.empty() || !is_directory(snapshot)) {
      return fail(StatusCode::not_found, base::concat("there is no directory ", base::in_quotes(model),
                                                      ", and no such model in the Hugging Face cache ",
                                                      base::in_quotes(cache), "; to download it: hf download ", model));
    }
    return snapshot;
  });
}

}  // namespace isologit::detail::io
