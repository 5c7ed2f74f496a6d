#include "io/json.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"

namespace isologit::detail::io {
namespace {

using Nlohmann = nlohmann::json;

// Real configurations nest about six deep; the bound keeps hostile ones from exhausting the stack when they are freed.
constexpr std::size_t max_depth = 64;

class TreeBuilder : public nlohmann::json_sax<Nlohmann> {
 public:
  bool null() override { return add(JsonValue{nullptr}); }
  bool boolean(bool value) override { return add(JsonValue{value}); }
  bool number_integer(number_integer_t value) override { return add(JsonValue{static_cast<std::int64_t>(value)}); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      return add(JsonValue{JsonReal{std::to_string(value)}});
    }
    return add(JsonValue{static_cast<std::int64_t>(value)});
  }
  bool number_float(number_float_t, const string_t& text) override { return add(JsonValue{JsonReal{text}}); }
  bool string(string_t& value) override { return add(JsonValue{std::move(value)}); }
  bool binary(binary_t&) override { return refuse("binary values are not JSON"); }

  bool start_object(std::size_t) override { return open(JsonValue{JsonValue::Object{}}); }
  bool key(string_t& name) override {
    open_.back().key = std::move(name);
    return true;
  }
  bool end_object() override {
    const auto& members = std::get<JsonValue::Object>(open_.back().container.data);
    std::vector<std::string_view> keys;
    keys.reserve(members.size());
    for (const JsonMember& member : members) keys.push_back(member.key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      return refuse(base::concat("the key ", base::in_quotes(*twice), " is given twice in one object"));
    return close();
  }
  bool start_array(std::size_t) override { return open(JsonValue{JsonValue::Array{}}); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t, const std::string&, const Nlohmann::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, ..." carries the parser's own prefix.
    std::string_view text = error.what();
    if (const auto end = text.find("] "); end != std::string_view::npos) text.remove_prefix(end + 2);
    return refuse(base::printable(text, 240));
  }

  JsonValue& root() { return root_; }
  const std::string& reason() const { return reason_; }

 private:
  struct Open {
    JsonValue container;
    std::string key;  // of the member being read, when the container is an object
  };

  bool refuse(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }

  bool open(JsonValue container) {
    if (open_.size() == max_depth) return refuse(base::concat("it nests deeper than ", max_depth, " levels"));
    open_.push_back({std::move(container), {}});
    return true;
  }

  bool close() {
    JsonValue done = std::move(open_.back().container);
    open_.pop_back();
    return add(std::move(done));
  }

  bool add(JsonValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* members = std::get_if<JsonValue::Object>(&open_.back().container.data)) {
      members->push_back({std::move(open_.back().key), std::move(value)});
    } else {
      std::get<JsonValue::Array>(open_.back().container.data).push_back(std::move(value));
    }
    return true;
  }

  JsonValue root_;
  std::vector<Open> open_;
  std::string reason_;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  if (const Object* members = object()) {
    for (const JsonMember& member : *members) {
      if (member.key == key) return &member.value;
    }
  }
  return nullptr;
}

std::string describe(const JsonValue& value) {
  if (value.is_null()) return "null";
  if (const bool* flag = value.boolean()) return *flag ? "true" : "false";
  if (const std::int64_t* number = value.integer()) return std::to_string(*number);
  if (const JsonReal* real = std::get_if<JsonReal>(&value.data)) return base::printable(real->text);
  if (const std::string* text = value.string()) return base::in_quotes(*text);
  return value.array() != nullptr ? "an array" : "an object";
}

Result<JsonValue> parse_json(std::string_view text, const std::string& source) {
  return guarded("parsing JSON", [&]() -> Result<JsonValue> {
    TreeBuilder builder;
    if (!Nlohmann::sax_parse(text.begin(), text.end(), &builder)) {
      return fail(StatusCode::invalid_argument, base::concat(source, " is not valid JSON: ", builder.reason()));
    }
    return std::move(builder.root());
  });
}

Result<std::string> json_string(std::string_view text) {
  return guarded("writing JSON", [&]() -> Result<std::string> {
    try {
      return Nlohmann(text).dump();
    } catch (const Nlohmann::type_error&) {
      return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(text), " is not valid UTF-8"));
    }
  });
}

}  // namespace isologit::detail::io
