#include "io/text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <system_error>

namespace isologit::io {

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  for (char c : text.substr(0, max_bytes)) {
    if (c >= ' ' && c <= '~') {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  if (text.size() > max_bytes) out += "...";
  return out;
}

std::string in_quotes(std::string_view text) { return fmt::format("\"{}\"", printable(text)); }

std::string shape_text(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::string errno_text(int error) { return std::generic_category().message(error); }

}  // namespace isologit::io
