#include "base/text.hpp"

#include <array>
#include <charconv>
#include <system_error>

namespace isologit::detail::base {
namespace {

template <class Float>
std::string shortest(Float x) {
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), x).ptr;
  return {buffer.data(), end};
}

}  // namespace

std::string decimal(double x) { return shortest(x); }
std::string decimal(float x) { return shortest(x); }

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  for (char c : text.substr(0, max_bytes)) {
    if (c >= ' ' && c <= '~') {
      out += c;
    } else {
      constexpr std::string_view digits = "0123456789abcdef";
      const auto byte = static_cast<unsigned char>(c);
      out += "\\x";
      out += digits[byte >> 4U];
      out += digits[byte & 15U];
    }
  }
  if (text.size() > max_bytes) out += "...";
  return out;
}

std::string in_quotes(std::string_view text) { return concat("\"", printable(text), "\""); }

std::string shape_text(std::span<const std::int64_t> shape) {
  constexpr std::size_t shown = 16;
  if (shape.size() <= shown) return concat("[", join(shape, ", "), "]");
  return concat("[", join(shape.first(shown), ", "), ", ... ", shape.size(), " dimensions]");
}

std::string errno_text(int error) { return std::generic_category().message(error); }

}  // namespace isologit::detail::base
