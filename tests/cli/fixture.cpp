#include "fixture.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <list>
#include <span>

namespace isologit::test {

std::vector<float> some_values(std::size_t count, std::uint32_t seed) {
  std::vector<float> values(count);
  std::uint32_t state = seed;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(static_cast<int>(state >> 23) - 256) / 64.0F;
  }
  return values;
}

void write_tensors(const std::string& path, const std::vector<detail::io::TensorToWrite>& tensors) {
  const auto destination = detail::io::find_destination(path);
  ASSERT_TRUE(destination.has_value()) << destination.error().message;
  auto file = detail::io::NewFile::create(*destination);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  ASSERT_TRUE(detail::io::write_safetensors(*file, tensors).has_value());
  ASSERT_TRUE(file->complete().has_value());
  ASSERT_TRUE(file->move().has_value());
}

Workspace::Workspace() {
  std::string name = (std::filesystem::temp_directory_path() / "isologit-cli-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  folder_ = name;
}

Workspace::~Workspace() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void Workspace::write_config(const std::string& model, std::int64_t vocab, std::int64_t hidden,
                             const std::string& more) const {
  std::filesystem::create_directories(path(model));
  std::ofstream(path(model) + "/config.json")
      << R"({"model_type": "qwen3", "tie_word_embeddings": false, "vocab_size": )" << vocab << R"(, "hidden_size": )"
      << hidden << more << "}";
}

std::string Workspace::write_model(const std::string& name, const std::vector<float>& weight, std::int64_t vocab,
                                   std::int64_t hidden) const {
  write_config(name, vocab, hidden);
  const std::vector<float> embedding(static_cast<std::size_t>(vocab * hidden), 9.0F);
  const std::vector<detail::io::TensorToWrite> tensors = {
      {"lm_head.weight", "F32", {vocab, hidden}, std::as_bytes(std::span(weight))},
      {"model.embed_tokens.weight", "F32", {vocab, hidden}, std::as_bytes(std::span(embedding))}};
  write_tensors(path(name) + "/model.safetensors", tensors);
  return path(name);
}

std::string Workspace::write_input(const std::string& name, const Input& input, std::int64_t hidden) const {
  const auto rows = static_cast<std::int64_t>(input.token_ids.size());
  std::vector<detail::io::TensorToWrite> tensors = {
      {"hidden_states", "F32", {rows, hidden}, std::as_bytes(std::span(input.hidden))}};
  std::list<std::vector<std::int32_t>> narrow;  // what tensors point to
  const auto add = [&](const char* tensor, std::vector<std::int64_t> shape, const std::vector<std::int64_t>& values) {
    if (!input.narrow_ids) {
      tensors.push_back({tensor, "I64", std::move(shape), std::as_bytes(std::span(values))});
      return;
    }
    narrow.emplace_back(values.begin(), values.end());
    tensors.push_back({tensor, "I32", std::move(shape), std::as_bytes(std::span(narrow.back()))});
  };
  add("token_ids", {rows}, input.token_ids);
  if (!input.ids.empty()) add("ids", {rows, static_cast<std::int64_t>(input.ids.size()) / rows}, input.ids);
  const auto add_list = [&](const char* tensor, const std::vector<std::int64_t>& values) {
    if (!values.empty()) add(tensor, {static_cast<std::int64_t>(values.size())}, values);
  };
  add_list("kept_offsets", input.kept_offsets);
  add_list("kept_ids", input.kept_ids);
  add_list("banned_offsets", input.banned_offsets);
  add_list("banned_ids", input.banned_ids);
  if (!input.temperatures.empty()) {
    tensors.push_back({"temperatures", "F32", {rows}, std::as_bytes(std::span(input.temperatures))});
  }
  write_tensors(path(name), tensors);
  return path(name);
}

Input Workspace::usual_input() {
  Input input;
  input.hidden = some_values(kRows * kHidden, 2);
  for (std::int64_t i = 0; i < kRows; ++i) input.token_ids.push_back(i * 7 % kVocab);
  input.token_ids[4] = input.token_ids[17] = -100;
  return input;
}

std::vector<std::string> Workspace::files(const std::string& folder) const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path(folder))) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace isologit::test
