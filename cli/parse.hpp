// Values of options, from their text. No locale has a say in how a number is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/outcome.hpp"

namespace isologit::detail::cli {

// The text of --temperature, rounded once to f32: a finite number above 0, or, where `zero` allows it, 0.
Outcome<float> parse_temperature(std::string_view text, bool zero = false);

// The text of another option, rounded once to f32, if `good` accepts it; `expected` words what that is.
Outcome<float> parse_f32(std::string_view option, std::string_view text, std::string_view expected,
                         bool (*good)(float));

// The text of an option that takes an integer from 0 to 2^64 - 1.
Outcome<std::uint64_t> parse_u64(std::string_view option, std::string_view text);

// The text of an option that takes a slice: "A:B", A to B - 1, where either may be left out.
struct RowSlice {
  std::string text;
  std::optional<std::int64_t> begin;
  std::optional<std::int64_t> end;
};
Outcome<RowSlice> parse_rows(std::string_view text);  // of --rows
Outcome<RowSlice> parse_ids(std::string_view text);   // of --vocab

// The rows of an input of `total` rows, or the ids of a vocabulary of `total` ids, that a slice names; they must exist,
// and there must be one.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};
Outcome<RowRange> resolve_rows(const RowSlice& slice, std::int64_t total);
Outcome<RowRange> resolve_ids(const RowSlice& slice, std::int64_t total);

}  // namespace isologit::detail::cli
