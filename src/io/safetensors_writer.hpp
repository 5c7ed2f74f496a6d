// Writing the safetensors format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "isologit/status.hpp"

namespace isologit::io {

struct TensorToWrite {
  std::string name;
  std::string dtype;  // a name that the format defines: "F32", "I64", ...
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

// Writes all tensors aside and moves the finished file to path: path either keeps what it had or holds everything.
// The data begins 8-byte aligned, wider element types first, then by name.
Result<void> write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors);

}  // namespace isologit::io
