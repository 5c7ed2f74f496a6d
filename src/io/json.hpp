// JSON as checkpoints need it: a key given twice is an error at every level, nesting is bounded, and a number keeps
// its literal text so that it can be rounded once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "isologit/status.hpp"

namespace isologit::detail::io {

// A number with a fraction, an exponent, or more digits than 64 bits hold, as it was written.
struct JsonReal {
  std::string text;
};

struct JsonMember;

struct JsonValue {
  using Array = std::vector<JsonValue>;
  using Object = std::vector<JsonMember>;  // in the order of the document

  std::variant<std::nullptr_t, bool, std::int64_t, JsonReal, std::string, Array, Object> data;

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(data); }
  const bool* boolean() const { return std::get_if<bool>(&data); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&data); }
  const std::string* string() const { return std::get_if<std::string>(&data); }
  const Array* array() const { return std::get_if<Array>(&data); }
  const Object* object() const { return std::get_if<Object>(&data); }

  // The member of that name; null when there is none or this is not an object.
  const JsonValue* find(std::string_view key) const;
};

struct JsonMember {
  std::string key;
  JsonValue value;
};

// The value in a few words for messages: `12`, `"abc"`, `null`, `an array`.
std::string describe(const JsonValue& value);

// source names the document in messages.
Result<JsonValue> parse_json(std::string_view text, const std::string& source);

// text as a JSON string with its quotes. text must be UTF-8.
Result<std::string> json_string(std::string_view text);

}  // namespace isologit::detail::io
