// Small models and inputs on disk, in a folder that goes when the test ends.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "io/safetensors.hpp"
#include "io/safetensors_writer.hpp"

namespace isologit::test {

// What a model or an input holds, in f32. Values are multiples of 2^-6 in [-4, 4), the same on every machine.
std::vector<float> some_values(std::size_t count, std::uint32_t seed);

struct Input {
  std::vector<float> hidden;  // [T, H]
  std::vector<std::int64_t> token_ids;
  std::vector<float> temperatures;
  bool narrow_ids = false;                                                       // write all ids as I32
  std::vector<std::int64_t> kept_offsets, kept_ids, banned_offsets, banned_ids;  // each written if not empty
  std::vector<std::int64_t> ids;                                                 // [T, K], likewise
};

// A safetensors file; fails the test if it cannot be written.
void write_tensors(const std::string& path, const std::vector<detail::io::TensorToWrite>& tensors);

class Workspace : public ::testing::Test {
 protected:
  Workspace();
  ~Workspace() override;

  static constexpr std::int64_t kVocab = 50;
  static constexpr std::int64_t kHidden = 8;
  static constexpr std::int64_t kRows = 23;

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // config.json of an untied head, with more members if given (",\"name\": value").
  void write_config(const std::string& model, std::int64_t vocab, std::int64_t hidden,
                    const std::string& more = "") const;
  // A model whose lm_head.weight is `weight` and whose embedding is not.
  std::string write_model(const std::string& name, const std::vector<float>& weight, std::int64_t vocab,
                          std::int64_t hidden) const;
  std::string write_input(const std::string& name, const Input& input, std::int64_t hidden) const;

  // kRows rows with ids all over the vocabulary, rows 4 and 17 ignored.
  static Input usual_input();
  std::string usual_model() const { return write_model("model", usual_weight(), kVocab, kHidden); }
  static std::vector<float> usual_weight() { return some_values(kVocab * kHidden, 1); }

  // A tensor of a safetensors file; fails the test unless dtype and length are as told.
  template <class T>
  static std::vector<T> read_tensor(const std::string& file, const std::string& name, const std::string& dtype) {
    auto opened = detail::io::SafetensorsFile::open(file);
    EXPECT_TRUE(opened.has_value());
    if (!opened) return {};
    const detail::io::Tensor* tensor = opened->find(name);
    EXPECT_NE(tensor, nullptr) << name;
    if (tensor == nullptr) return {};
    EXPECT_EQ(tensor->dtype, dtype);
    std::vector<T> values(tensor->bytes / sizeof(T));
    std::memcpy(values.data(), tensor->data, tensor->bytes);
    return values;
  }

  // Names in the workspace, for "nothing was left".
  std::vector<std::string> files(const std::string& folder = "") const;

 private:
  std::filesystem::path folder_;
};

}  // namespace isologit::test
