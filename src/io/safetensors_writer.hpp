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

// Writes all tensors aside and moves the finished file to path: path either keeps what it had or holds everything.
// The data begins 8-byte aligned, wider element types first, then by name.
Result<void> write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors);

// A file of one tensor that is too large to be held: its bytes are appended part by part.
class TensorStream {
 public:
  static Result<TensorStream> begin(const std::string& path, const std::string& name, const std::string& dtype,
                                    const std::vector<std::int64_t>& shape);
  Result<void> append(std::span<const std::byte> data);
  // Moves the file to path; every byte of the shape must have been appended. A stream that goes without it leaves path
  // as it was.
  Result<void> finish();

 private:
  TensorStream(NewFile file, std::uint64_t missing) : file_(std::move(file)), missing_(missing) {}

  NewFile file_;
  std::uint64_t missing_;  // bytes not yet appended
};

}  // namespace isologit::detail::io
