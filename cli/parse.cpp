#include "cli/parse.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <system_error>

#include "isologit/kernels.hpp"

namespace isologit::detail::cli {
namespace {

// The whole text as a number.
template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// What an option slices.
struct Sliced {
  const char* option;
  const char* one;
  const char* many;
  const char* whole;
};
constexpr Sliced kRows{"--rows", "row", "rows", "input"};
constexpr Sliced kIds{"--vocab", "id", "ids", "vocabulary"};

Outcome<RowSlice> parse_slice(const Sliced& sliced, std::string_view text) {
  const auto wrong = [&] {
    return usage_error(fmt::format("{}: '{}'; expected A:B, {} A to B - 1 counted from 0, where either may be left out",
                                   sliced.option, text, sliced.many));
  };
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return wrong();
  RowSlice slice{std::string(text), std::nullopt, std::nullopt};
  const auto read = [](std::string_view part, std::optional<std::int64_t>& bound) {
    if (part.empty()) return true;
    bound = number<std::int64_t>(part);
    return bound.has_value() && *bound >= 0;
  };
  if (!read(text.substr(0, colon), slice.begin) || !read(text.substr(colon + 1), slice.end)) return wrong();
  return slice;
}

Outcome<RowRange> resolve_slice(const Sliced& sliced, const RowSlice& slice, std::int64_t total) {
  const RowRange range{slice.begin.value_or(0), slice.end.value_or(total)};
  if (range.begin > total || range.end > total) {
    return usage_error(fmt::format("{}: '{}' reaches past the {}, which has {} {}", sliced.option, slice.text,
                                   sliced.whole, total, sliced.many));
  }
  if (range.begin >= range.end) {
    return usage_error(fmt::format("{}: '{}' names no {}: {} is not before {}", sliced.option, slice.text, sliced.one,
                                   range.begin, range.end));
  }
  return range;
}

}  // namespace

Outcome<float> parse_f32(std::string_view option, std::string_view text, std::string_view expected,
                         bool (*good)(float)) {
  const std::optional<float> value = number<float>(text);
  if (!value || !good(*value)) return usage_error(fmt::format("{}: '{}'; expected {}", option, text, expected));
  return *value;
}

Outcome<float> parse_temperature(std::string_view text, bool zero) {
  if (zero) {
    return parse_f32("--temperature", text, "a finite number, 0 (greedy) or above, such as 0.7",
                     [](float t) { return t >= 0 && std::isfinite(t); });
  }
  return parse_f32("--temperature", text, "a finite number above 0 within the range of f32, such as 0.7",
                   [](float t) { return t > 0 && std::isfinite(t); });
}

Outcome<std::uint64_t> parse_u64(std::string_view option, std::string_view text) {
  const std::optional<std::uint64_t> value = number<std::uint64_t>(text);
  if (!value) return usage_error(fmt::format("{}: '{}'; expected an integer from 0 to 2^64 - 1", option, text));
  return *value;
}

Outcome<RowSlice> parse_rows(std::string_view text) { return parse_slice(kRows, text); }

Outcome<RowSlice> parse_ids(std::string_view text) { return parse_slice(kIds, text); }

Outcome<RowRange> resolve_rows(const RowSlice& slice, std::int64_t total) { return resolve_slice(kRows, slice, total); }

Outcome<RowRange> resolve_ids(const RowSlice& slice, std::int64_t total) { return resolve_slice(kIds, slice, total); }

}  // namespace isologit::detail::cli
