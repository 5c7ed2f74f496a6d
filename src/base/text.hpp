// Text for error messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace isologit::detail::base {

// The shortest decimal that reads back as x.
std::string decimal(double x);
std::string decimal(float x);

// The parts one after another: texts as they are, numbers in decimal. (A formatting library would cost every file
// that only words its errors more compile time than all else in it.)
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string text;
  const auto append = [&text](const auto& part) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(part)>>) {
      text += std::to_string(part);
    } else if constexpr (std::is_floating_point_v<std::remove_cvref_t<decltype(part)>>) {
      text += decimal(part);
    } else {
      text += part;
    }
  };
  (append(parts), ...);
  return text;
}

// The parts with a separator between each two of them.
template <class Range>
std::string join(const Range& parts, std::string_view separator) {
  std::string text;
  bool first = true;
  for (const auto& part : parts) {
    if (!first) text += separator;
    first = false;
    text += concat(part);
  }
  return text;
}

// Foreign text made safe to show: bytes outside printable ASCII become \xNN, and text past max_bytes becomes "...".
std::string printable(std::string_view text, std::size_t max_bytes = 1024);

// printable() between double quotes.
std::string in_quotes(std::string_view text);

// "[2, 3]", at most the first 16 dimensions.
std::string shape_text(std::span<const std::int64_t> shape);

// "No such file or directory"
std::string errno_text(int error);

}  // namespace isologit::detail::base
