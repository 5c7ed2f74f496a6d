// Reading the safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// The data is never copied and may begin at any address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct Tensor {
  std::string name;
  std::string dtype;  // as written: "BF16", "F8_E4M3", ...
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

struct SafetensorsContents {
  std::vector<Tensor> tensors;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

// Checks the whole header. A dtype name that the format does not define is accepted, as its size cannot be checked;
// gaps between tensors and bytes after the last are refused, as the format demands. source names the file in messages.
Result<SafetensorsContents> parse_safetensors(std::span<const std::byte> file, const std::string& source);

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::vector<Tensor>& tensors() const { return contents_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }

  // Null when there is no tensor of that name. Valid while this object lives; the data it points to also stays where
  // it is when this object is moved.
  const Tensor* find(std::string_view name) const;

 private:
  SafetensorsFile(std::string path, MappedFile file, SafetensorsContents contents);

  std::string path_;
  MappedFile file_;
  SafetensorsContents contents_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace isologit::detail::io
