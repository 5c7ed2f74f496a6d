// Captured rows: the hidden states of a run, the token scored from each, and optionally its temperature.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.hpp"
#include "isologit/status.hpp"
#include "isologit/view.hpp"

namespace isologit::detail::io {

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

// What a file of captured rows may hold besides, each in I64 or I32; values are not judged here.

// ids [T, K]: more ids to score in each row. None: per_row 0.
struct GivenIds {
  std::int64_t per_row = 0;
  std::vector<std::int64_t> ids;  // T * K
};
Result<GivenIds> read_given_ids(const Captured& captured);

// Lists of ids, one a row: that of row i is ids[offsets[i]] to ids[offsets[i + 1] - 1]. None: no offsets.
struct ListedIds {
  std::vector<std::int64_t> offsets;  // T + 1
  std::vector<std::int64_t> ids;
};
// Tensors kept_offsets and kept_ids for the name "kept", and so on: both or neither.
Result<ListedIds> read_lists(const Captured& captured, const std::string& name);

}  // namespace isologit::detail::io
