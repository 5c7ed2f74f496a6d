#include "io/captured.hpp"

#include <utility>

#include "support.hpp"

namespace isologit::io {
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

TEST_F(CapturedTest, UnusableFile) {
  EXPECT_FAILS(read_captured(dir_.path("none")), StatusCode::not_found, dir_.path("none"));
}

}  // namespace
}  // namespace isologit::io
