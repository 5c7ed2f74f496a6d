#include "io/safetensors.hpp"

#include <utility>

#include "support.hpp"

namespace isologit::detail::io {
namespace {

Result<SafetensorsContents> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "x.safetensors");
}

Result<SafetensorsContents> parse(std::string_view header, std::size_t data_bytes) {
  return parse(safetensors_bytes(header, std::string(data_bytes, 'd')));
}

void expect_refused(std::string_view header, std::size_t data_bytes, const std::string& why) {
  EXPECT_FAILS(parse(header, data_bytes), StatusCode::invalid_argument, "x.safetensors", why) << header;
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string header = R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[],"data_offsets":[6,14]},)"
                             R"("a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]},)"
                             R"("none":{"dtype":"F32","shape":[2,0],"data_offsets":[6,6]}}   )";
  const TempDir dir;
  auto opened = SafetensorsFile::open(dir.write("m", safetensors_bytes(header, "abcdefghijklmn")));
  ASSERT_TRUE(opened) << opened.error().message;
  const SafetensorsFile file = std::move(*opened);
  EXPECT_EQ(file.path(), dir.path("m"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensors()[0].name, "a");
  const Tensor* a = file.find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->dtype, "BF16");
  EXPECT_EQ(a->shape, (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(a->data), a->bytes), "abcdef");
  const Tensor* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_TRUE(b->shape.empty());
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(b->data), b->bytes), "ghijklmn");
  ASSERT_NE(file.find("none"), nullptr);
  EXPECT_EQ(file.find("none")->bytes, 0U);
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Safetensors, DataMayBeginAtAnyAddress) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  ASSERT_NE(header.size() % 4, 0U);
  const TempDir dir;
  auto file = SafetensorsFile::open(dir.write("m", safetensors_bytes(header, "wxyz")));
  ASSERT_TRUE(file);
  const Tensor& tensor = *file->find("a");
  EXPECT_NE(reinterpret_cast<std::uintptr_t>(tensor.data) % 4, 0U);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(tensor.data), tensor.bytes), "wxyz");
}

TEST(Safetensors, NoTensors) {
  const auto empty = parse("{}", 0);
  ASSERT_TRUE(empty);
  EXPECT_TRUE(empty->tensors.empty());
}

TEST(Safetensors, SubByteAndUnknownDtypes) {
  EXPECT_TRUE(parse(R"({"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}})", 3));
  expect_refused(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2, "do not match dtype F4");
  EXPECT_TRUE(parse(R"({"a":{"dtype":"F13","shape":[3],"data_offsets":[0,2]}})", 2));
}

TEST(Safetensors, TooShort) {
  EXPECT_FAILS(parse(std::string(7, '\0')), StatusCode::invalid_argument, "only 7 bytes long");
  EXPECT_FAILS(parse(std::string()), StatusCode::invalid_argument, "only 0 bytes long");
}

TEST(Safetensors, HeaderLength) {
  EXPECT_FAILS(parse(length_prefix(3) + "{}"), StatusCode::invalid_argument, "header length is 3 bytes",
               "only 2 follow", "truncated");
  EXPECT_TRUE(parse(length_prefix(2) + "{}"));
  EXPECT_FAILS(parse(length_prefix(100'000'001) + "{}"), StatusCode::invalid_argument,
               "header length is 100000001 bytes, at most 100000000");
  EXPECT_FAILS(parse(length_prefix(~std::uint64_t{0}) + "{}"), StatusCode::invalid_argument,
               "header length is 18446744073709551615 bytes");
}

TEST(Safetensors, HeaderThatIsNoJsonObject) {
  expect_refused("", 4, "not a JSON object");
  expect_refused("[]", 0, "not a JSON object");
  expect_refused(" {}", 0, "not a JSON object");
  expect_refused(R"({"a":{"dtype":"F32")", 0, "not valid JSON");
  expect_refused("{}}", 0, "not valid JSON");
  expect_refused(R"({"a":)" + std::string(100, '[') + std::string(100, ']') + "}", 0, "deeper than 64");
}

TEST(Safetensors, DuplicateKeys) {
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_refused("{" + a + "," + a + "}", 1, R"(the key "a" is given twice)");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"shape":[1]}})", 1,
                 R"(the key "shape" is given twice)");
  expect_refused(R"({"__metadata__":{"k":"1","k":"2"}})", 0, R"(the key "k" is given twice)");
}

TEST(Safetensors, Fields) {
  expect_refused(R"({"a":1})", 0, R"(tensor "a" is 1, expected an object)");
  expect_refused(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, R"(has no field "dtype")");
  expect_refused(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, R"(has no field "shape")");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1]}})", 1, R"(has no field "data_offsets")");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}})", 1, R"(has an unknown field "x")");
  expect_refused(R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1, "dtype is 8, expected a string");
}

TEST(Safetensors, Metadata) {
  expect_refused(R"({"__metadata__":"pt"})", 0, R"(__metadata__ is "pt", expected an object of strings)");
  expect_refused(R"({"__metadata__":{"n":1}})", 0, R"(__metadata__ "n" is 1, expected a string)");
}

TEST(Safetensors, Shape) {
  const auto with_shape = [](const std::string& shape) {
    return R"({"a":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":[0,1]}})";
  };
  expect_refused(with_shape("1"), 1, "shape is 1, expected an array");
  expect_refused(with_shape("[-1]"), 1, "shape contains -1");
  expect_refused(with_shape("[-1,-1]"), 1, "shape contains -1");
  expect_refused(with_shape("[1.0]"), 1, "shape contains 1.0");
  expect_refused(with_shape("[\"1\"]"), 1, "shape contains \"1\"");
  expect_refused(with_shape("[9223372036854775808]"), 1, "shape contains 9223372036854775808");
  expect_refused(with_shape("[4294967296,4294967296]"), 1, "the product of shape [4294967296, 4294967296] overflows");
  expect_refused(with_shape("[2]"), 1, "1 bytes of data do not match dtype U8 and shape [2]");
  // 2^61 elements of 8 bits: the bit count overflows, the product does not.
  expect_refused(with_shape("[2305843009213693952]"), 1, "do not match");
}

TEST(Safetensors, Offsets) {
  const auto with_offsets = [](const std::string& offsets) {
    return R"({"a":{"dtype":"U8","shape":[1],"data_offsets":)" + offsets + "}}";
  };
  EXPECT_TRUE(parse(with_offsets("[0,1]"), 1));
  expect_refused(with_offsets("0"), 1, "data_offsets is 0, expected two integers");
  expect_refused(with_offsets("[0]"), 1, "data_offsets is an array of 1, expected two integers");
  expect_refused(with_offsets("[0,1,2]"), 1, "data_offsets is an array of 3, expected two integers");
  expect_refused(with_offsets("[-1,0]"), 1, "data_offsets contains -1");
  expect_refused(with_offsets("[0,1.5]"), 1, "data_offsets contains 1.5");
  expect_refused(with_offsets("[0,18446744073709551617]"), 1, "data_offsets contains 18446744073709551617");
  expect_refused(with_offsets("[1,0]"), 1, "begin at 1, after their end at 0");
  expect_refused(with_offsets("[1,2]"), 1, "data_offsets end at 2, but the file holds 1 bytes of data");
  expect_refused(with_offsets("[9223372036854775806,9223372036854775807]"), 1,
                 "data_offsets end at 9223372036854775807");
  expect_refused(with_offsets("[0,2]"), 2, "2 bytes of data do not match");
}

TEST(Safetensors, Layout) {
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + a +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + b + "}}";
  };
  EXPECT_TRUE(parse(two("[2,4]", "[0,2]"), 4));
  expect_refused(two("[0,2]", "[1,3]"), 3, R"(tensors "a" and "b" overlap)");
  expect_refused(two("[0,2]", "[0,2]"), 2, R"(tensors "a" and "b" overlap)");
  expect_refused(two("[0,2]", "[3,5]"), 5, R"(1 bytes before tensor "b" belong to no tensor)");
  expect_refused(two("[1,3]", "[3,5]"), 5, R"(1 bytes before tensor "a" belong to no tensor)");
  expect_refused(two("[0,2]", "[2,4]"), 7, "3 bytes at the end belong to no tensor");
  expect_refused("{}", 1, "1 bytes at the end belong to no tensor");
}

TEST(Safetensors, OpenReportsTheFile) {
  const TempDir dir;
  EXPECT_FAILS(SafetensorsFile::open(dir.path("none")), StatusCode::not_found, dir.path("none"));
  EXPECT_FAILS(SafetensorsFile::open(dir.write("bad", "xx")), StatusCode::invalid_argument, dir.path("bad"));
}

}  // namespace
}  // namespace isologit::detail::io
