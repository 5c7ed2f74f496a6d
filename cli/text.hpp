// How results are laid out for people.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.hpp"
#include "isologit/arithmetic.hpp"

namespace isologit::detail::cli {

// One "  label   value" a line, the values aligned. A field with an empty label and value is an empty line.
std::string field_table(const std::vector<std::pair<std::string, std::string>>& fields);

// Rows of as many cells as there are columns, the first row being the heading; each column as wide as its widest cell.
std::string column_table(const std::vector<std::vector<std::string>>& rows);

// "0.123 s", "12.3 s", "3 min 12 s"
std::string duration_text(double seconds);

// "512 bytes", "1.3 kB", "1.24 GB"; 1 kB is 1000 bytes.
std::string bytes_text(std::uint64_t bytes);

// "lm_head.weight  bf16 [151936, 4096]", with "tied" where it is the embedding.
std::string describe_head(const io::Checkpoint& checkpoint);

// "softcap 30, then x 0.5"; "none".
std::string transforms_text(const Transforms& transforms);

// "avx2, threads 2, exact arithmetic"
std::string kernel_text(const std::string& kernel, int threads, Arithmetic arithmetic);

}  // namespace isologit::detail::cli
