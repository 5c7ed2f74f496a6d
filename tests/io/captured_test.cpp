#include "io/captured.hpp"

#include <utility>

#include "support.hpp"

namespace isologit::detail::io {
namespace {

class CapturedTest : public ::testing::Test {
 protected:
  Result<Captured> read(const std::string& header, const std::string& data) {
    return read_captured(dir_.write("rows", safetensors_bytes(header, data)));
  }
  // hidden_states and token_ids of these descriptions, all zeros.
  Result<Captured> read_zeros(const std::string& hidden, std::size_t hidden_bytes, const std::string& ids,
                              std::size_t id_bytes) {
    const auto end = std::to_string(hidden_bytes + id_bytes);
    const auto middle = std::to_string(hidden_bytes);
    return read(R"({"hidden_states":{)" + hidden + R"(,"data_offsets":[0,)" + middle + R"(]},"token_ids":{)" + ids +
                    R"(,"data_offsets":[)" + middle + "," + end + "]}}",
                std::string(hidden_bytes + id_bytes, '\0'));
  }

  TempDir dir_;
};

constexpr const char* hidden_2x3 = R"("dtype":"BF16","shape":[2,3])";

TEST_F(CapturedTest, ReadsRowsThatAreNotAligned) {
  const std::string data = "x" + bytes_of<std::uint16_t>({1, 2, 3, 4, 5, 6}) + bytes_of<std::int64_t>({7, -100}) +
                           bytes_of<float>({0.5F, 2.0F});
  const std::string header = R"({"extra":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("hidden_states":{"dtype":"BF16","shape":[2,3],"data_offsets":[1,13]},)"
                             R"("token_ids":{"dtype":"I64","shape":[2],"data_offsets":[13,29]},)"
                             R"("temperatures":{"dtype":"F32","shape":[2],"data_offsets":[29,37]}})";
  auto opened = read(header, data);
  ASSERT_TRUE(opened) << opened.error().message;
  const Captured captured = std::move(*opened);
  EXPECT_EQ(captured.hidden.dtype, DType::bf16);
  EXPECT_EQ(captured.hidden.rows, 2);
  EXPECT_EQ(captured.hidden.cols, 3);
  EXPECT_EQ(captured.hidden.row_stride, 3);
  EXPECT_EQ(std::string_view(static_cast<const char*>(captured.hidden.data), 12), data.substr(1, 12));
  EXPECT_EQ(captured.token_ids, (std::vector<std::int64_t>{7, -100}));
  EXPECT_EQ(captured.temperatures, (std::vector<float>{0.5F, 2.0F}));
}

TEST_F(CapturedTest, NarrowIdsAndNoTemperatures) {
  const std::string header = R"({"hidden_states":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                             R"("token_ids":{"dtype":"I32","shape":[2],"data_offsets":[8,16]}})";
  const auto captured = read(header, bytes_of<float>({1, 2}) + bytes_of<std::int32_t>({2147483647, -100}));
  ASSERT_TRUE(captured) << captured.error().message;
  EXPECT_EQ(captured->hidden.dtype, DType::f32);
  EXPECT_EQ(captured->token_ids, (std::vector<std::int64_t>{2147483647, -100}));
  EXPECT_TRUE(captured->temperatures.empty());
}

TEST_F(CapturedTest, NoRows) {
  const auto captured = read_zeros(R"("dtype":"F16","shape":[0,3])", 0, R"("dtype":"I64","shape":[0])", 0);
  ASSERT_TRUE(captured) << captured.error().message;
  EXPECT_EQ(captured->hidden.rows, 0);
  EXPECT_TRUE(captured->token_ids.empty());
}

TEST_F(CapturedTest, MissingTensors) {
  EXPECT_FAILS(read("{}", ""), StatusCode::not_found, dir_.path("rows"), "\"hidden_states\"", "[T, H]");
  EXPECT_FAILS(read(R"({"hidden_states":{"dtype":"BF16","shape":[1,1],"data_offsets":[0,2]}})", "ab"),
               StatusCode::not_found, "\"token_ids\"", "I64 or I32");
}

TEST_F(CapturedTest, WrongHiddenStates) {
  const std::string ids = R"("dtype":"I64","shape":[2])";
  EXPECT_FAILS(read_zeros(R"("dtype":"F64","shape":[2,3])", 48, ids, 16), StatusCode::invalid_argument,
               "hidden_states has dtype F64, expected BF16, F16 or F32");
  EXPECT_FAILS(read_zeros(R"("dtype":"F32","shape":[2])", 8, ids, 16), StatusCode::invalid_argument,
               "hidden_states has shape [2], expected [T, H]");
  EXPECT_FAILS(read_zeros(R"("dtype":"F32","shape":[1,2,3])", 24, ids, 16), StatusCode::invalid_argument,
               "hidden_states has shape [1, 2, 3], expected [T, H]");
  EXPECT_FAILS(read_zeros(R"("dtype":"F32","shape":[2,0])", 0, ids, 16), StatusCode::invalid_argument,
               "hidden_states has shape [2, 0]");
}

TEST_F(CapturedTest, WrongTokenIds) {
  EXPECT_FAILS(read_zeros(hidden_2x3, 12, R"("dtype":"F32","shape":[2])", 8), StatusCode::invalid_argument,
               "token_ids has dtype F32, expected I64 or I32");
  EXPECT_FAILS(read_zeros(hidden_2x3, 12, R"("dtype":"I64","shape":[3])", 24), StatusCode::invalid_argument,
               "token_ids has shape [3], expected [2]");
  EXPECT_FAILS(read_zeros(hidden_2x3, 12, R"("dtype":"I64","shape":[2,1])", 16), StatusCode::invalid_argument,
               "token_ids has shape [2, 1], expected [2]");
}

TEST_F(CapturedTest, WrongTemperatures) {
  const auto with_temperatures = [&](const std::string& temperatures, std::size_t bytes) {
    return read(R"({"hidden_states":{"dtype":"BF16","shape":[1,1],"data_offsets":[0,2]},)"
                R"("token_ids":{"dtype":"I32","shape":[1],"data_offsets":[2,6]},"temperatures":{)" +
                    temperatures + R"(,"data_offsets":[6,)" + std::to_string(6 + bytes) + "]}}",
                std::string(6 + bytes, '\0'));
  };
  EXPECT_FAILS(with_temperatures(R"("dtype":"F64","shape":[1])", 8), StatusCode::invalid_argument,
               "temperatures has dtype F64, expected F32");
  EXPECT_FAILS(with_temperatures(R"("dtype":"F32","shape":[])", 4), StatusCode::invalid_argument,
               "temperatures has shape [], expected [1]");
  EXPECT_FAILS(with_temperatures(R"("dtype":"F32","shape":[2])", 8), StatusCode::invalid_argument,
               "temperatures has shape [2], expected [1]");
}

// One row of one hidden element, and more tensors: "name":{...} with their bytes.
TEST_F(CapturedTest, IdsAndLists) {
  const auto with = [&](const std::string& more, const std::string& bytes) {
    return read(R"({"hidden_states":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},)"
                R"("token_ids":{"dtype":"I32","shape":[1],"data_offsets":[4,8]})" +
                    more + "}",
                std::string(8, '\0') + bytes);
  };
  const auto none = with("", "");
  ASSERT_TRUE(none);
  EXPECT_EQ(read_given_ids(*none)->per_row, 0);
  EXPECT_TRUE(read_lists(*none, "kept")->offsets.empty());

  const std::string ids = R"(,"ids":{"dtype":"I32","shape":[1,3],"data_offsets":[8,20]})";
  const auto given = with(ids, bytes_of<std::int32_t>({5, -100, 7}));
  ASSERT_TRUE(given) << given.error().message;
  EXPECT_EQ(read_given_ids(*given)->per_row, 3);
  EXPECT_EQ(read_given_ids(*given)->ids, (std::vector<std::int64_t>{5, -100, 7}));

  const auto listed = with(R"(,"kept_offsets":{"dtype":"I64","shape":[2],"data_offsets":[8,24]},)"
                           R"("kept_ids":{"dtype":"I32","shape":[2],"data_offsets":[24,32]},)"
                           R"("banned_ids":{"dtype":"I32","shape":[0],"data_offsets":[32,32]})",
                           bytes_of<std::int64_t>({0, 2}) + bytes_of<std::int32_t>({3, 9}));
  ASSERT_TRUE(listed) << listed.error().message;
  EXPECT_EQ(read_lists(*listed, "kept")->offsets, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(read_lists(*listed, "kept")->ids, (std::vector<std::int64_t>{3, 9}));
  EXPECT_FAILS(read_lists(*listed, "banned"), StatusCode::not_found, "no tensor \"banned_offsets\"",
               "beside banned_ids");
  const auto wrong = [&](const std::string& dtype, const std::string& shape, std::size_t bytes) {
    return *with(R"(,"ids":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[8,)" +
                     std::to_string(8 + bytes) + "]}",
                 std::string(bytes, '\0'));
  };
  EXPECT_FAILS(read_given_ids(wrong("F32", "[1,1]", 4)), StatusCode::invalid_argument,
               "ids has dtype F32, expected I64 or I32");
  EXPECT_FAILS(read_given_ids(wrong("I32", "[1]", 4)), StatusCode::invalid_argument,
               "ids has shape [1], expected [1, K]");
  EXPECT_FAILS(read_given_ids(wrong("I32", "[2,1]", 8)), StatusCode::invalid_argument,
               "ids has shape [2, 1], expected [1, K]");
  EXPECT_FAILS(read_given_ids(wrong("I32", "[1,0]", 0)), StatusCode::invalid_argument,
               "ids has shape [1, 0], expected [1, K]");
  const auto offsets = with(R"(,"kept_offsets":{"dtype":"I32","shape":[3],"data_offsets":[8,20]},)"
                            R"("kept_ids":{"dtype":"I32","shape":[1,1],"data_offsets":[20,24]})",
                            std::string(16, '\0'));
  EXPECT_FAILS(read_lists(*offsets, "kept"), StatusCode::invalid_argument,
               "kept_offsets has shape [3], expected [2], one element more than there are rows");
}

TEST_F(CapturedTest, UnusableFile) {
  EXPECT_FAILS(read_captured(dir_.path("none")), StatusCode::not_found, dir_.path("none"));
}

}  // namespace
}  // namespace isologit::detail::io
