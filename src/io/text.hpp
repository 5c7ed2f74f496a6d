// Text for error messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace isologit::io {

// Foreign text made safe to show: bytes outside printable ASCII become \xNN, and text past max_bytes becomes "...".
std::string printable(std::string_view text, std::size_t max_bytes = 120);

// printable() between double quotes.
std::string in_quotes(std::string_view text);

// "[2, 3]"
std::string shape_text(std::span<const std::int64_t> shape);

// "No such file or directory"
std::string errno_text(int error);

}  // namespace isologit::io
