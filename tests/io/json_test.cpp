#include "io/json.hpp"

#include "base/text.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

TEST(Json, KeepsKindsAndLiteralText) {
  const auto parsed =
      parse_json(R"({"a":[1,-2,1.50e1,9223372036854775808],"b":"x","c":null,"d":true,"e":{"f":0}})", "test");
  ASSERT_TRUE(parsed) << parsed.error().message;
  const auto& numbers = *parsed->find("a")->array();
  EXPECT_EQ(*numbers[0].integer(), 1);
  EXPECT_EQ(*numbers[1].integer(), -2);
  EXPECT_EQ(std::get<JsonReal>(numbers[2].data).text, "1.50e1");
  EXPECT_EQ(std::get<JsonReal>(numbers[3].data).text, "9223372036854775808");
  EXPECT_EQ(*parsed->find("b")->string(), "x");
  EXPECT_TRUE(parsed->find("c")->is_null());
  EXPECT_TRUE(*parsed->find("d")->boolean());
  EXPECT_EQ(*parsed->find("e")->find("f")->integer(), 0);
  EXPECT_EQ(parsed->find("g"), nullptr);
}

TEST(Json, DuplicateKeysAtEveryLevel) {
  EXPECT_FAILS(parse_json(R"({"a":1,"b":2,"a":3})", "test"), StatusCode::invalid_argument,
               R"(the key "a" is given twice)");
  EXPECT_FAILS(parse_json(R"({"x":[{"y":{"deep":1,"deep":1}}]})", "test"), StatusCode::invalid_argument,
               R"(the key "deep" is given twice)");
  EXPECT_FAILS(parse_json(R"({"a":1,"\u0061":2})", "test"), StatusCode::invalid_argument,
               R"(the key "a" is given twice)");
  EXPECT_TRUE(parse_json(R"({"a":{"b":1},"b":{"b":1},"c":[{"b":1},{"b":1}]})", "test"));
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(parse_json(nested(64), "test"));
  EXPECT_FAILS(parse_json(nested(65), "test"), StatusCode::invalid_argument, "deeper than 64");
  EXPECT_FAILS(parse_json(std::string(1'000'000, '['), "test"), StatusCode::invalid_argument, "deeper than 64");
}

TEST(Json, SyntaxErrorsNameTheSource) {
  for (const char* text : {"", "{", "{\"a\":1,}", "{} x", "{'a':1}", "{\"a\":NaN}", "{\"a\":Infinity}",
                           "{\"a\":-Infinity}", "{\"a\":01}", "{\"a\":+1}", "{\"a\":1e999}", "\"\xff\"", "// c\n{}"}) {
    EXPECT_FAILS(parse_json(text, "the source"), StatusCode::invalid_argument, "the source is not valid JSON: ")
        << text;
  }
}

TEST(Json, QuotedStringsAreReadBack) {
  const std::string text = "a\"\\\n\x01 \xc3\xa9";
  const auto quoted = json_string(text);
  ASSERT_TRUE(quoted);
  const auto parsed = parse_json(*quoted, "test");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed->string(), text);
  EXPECT_FAILS(json_string("\xff"), StatusCode::invalid_argument, "\\xff", "not valid UTF-8");
}

TEST(Text, ForeignTextIsMadeSafe) {
  EXPECT_EQ(base::printable("a\x1b[31m\n"), "a\\x1b[31m\\x0a");
  EXPECT_EQ(base::printable("abcdef", 3), "abc...");
  EXPECT_EQ(base::in_quotes(std::string(2000, 'a')).size(), 1024U + 5U);
}

TEST(Text, Shapes) {
  EXPECT_EQ(base::shape_text(std::vector<std::int64_t>{}), "[]");
  EXPECT_EQ(base::shape_text(std::vector<std::int64_t>{-1, 20}), "[-1, 20]");
  EXPECT_EQ(base::shape_text(std::vector<std::int64_t>(17, 1)),
            "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ... 17 dimensions]");
}

}  // namespace
}  // namespace isologit::detail::io
