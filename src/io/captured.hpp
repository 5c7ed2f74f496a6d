// Captured rows: the hidden states of a run, the token scored from each, and optionally its temperature.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.hpp"
#include "isologit/status.hpp"
#include "isologit/view.hpp"

namespace isologit::io {

struct Captured {
  MatrixView hidden;  // [T, H], in the mapped file: valid while this object, or what it was moved to, lives
  std::vector<std::int64_t> token_ids;  // T
  std::vector<float> temperatures;      // T, or empty when the file has none
  SafetensorsFile file;
};

// A safetensors file with hidden_states [T, H] in BF16, F16 or F32, token_ids [T] in I64 or I32 and optionally
// temperatures [T] in F32; other tensors are ignored. Values are not judged here: the core checks ids and temperatures.
Result<Captured> read_captured(const std::string& path);

// The same without token_ids, which need not be there and are not read.
Result<Captured> read_hidden_rows(const std::string& path);

}  // namespace isologit::io
