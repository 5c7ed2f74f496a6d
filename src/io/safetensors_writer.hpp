// Writing the safetensors format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/new_file.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

struct TensorToWrite {
  std::string name;
  std::string dtype;  // a name that the format defines: "F32", "I64", ...
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

// Writes all tensors; the file is then to be completed and moved. The data begins 8-byte aligned, wider element types
// first, then by name.
Result<void> write_safetensors(NewFile& file, std::span<const TensorToWrite> tensors);

// A file of one tensor that is too large to be held: its bytes are appended part by part.
class TensorStream {
 public:
  // The file must outlive the stream.
  static Result<TensorStream> begin(NewFile& file, const std::string& name, const std::string& dtype,
                                    const std::vector<std::int64_t>& shape);
  Result<void> append(std::span<const std::byte> data);
  // Every byte of the shape must have been appended.
  Result<void> finish() const;

 private:
  TensorStream(NewFile& file, std::uint64_t missing) : file_(&file), missing_(missing) {}

  NewFile* file_;
  std::uint64_t missing_;  // bytes not yet appended
};

}  // namespace isologit::detail::io
