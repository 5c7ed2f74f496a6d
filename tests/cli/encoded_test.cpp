// Heads of f8 and f64 in the command.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

// Positive normal numbers of E4M3 for their bits, and scales of which products need more bits than f32 or bf16 have.
double e4m3(std::uint8_t bits) { return std::ldexp(8 + (bits & 7), (bits >> 3) - 10); }

class Encoded : public Workspace {
 protected:
  // [kVocab, kHidden] with a scale for each block of [16, 3].
  static constexpr std::int64_t kBlocks = 4;
  static constexpr std::int64_t kColumns = 3;

  Encoded() {
    for (std::int64_t i = 0; i < kVocab * kHidden; ++i) f8_.push_back(static_cast<std::uint8_t>(40 + (i * 37) % 32));
    for (int i = 0; i < kBlocks * kColumns; ++i) scales_.push_back(0.01F + 0.0137F * static_cast<float>(i));
    for (std::int64_t i = 0; i < kVocab * kHidden; ++i) {
      const std::int64_t block = i / kHidden / 16 * kColumns + i % kHidden / 3;
      products_.push_back(e4m3(f8_[static_cast<std::size_t>(i)]) *
                          static_cast<double>(scales_[static_cast<std::size_t>(block)]));
    }
  }

  std::string model(const std::string& name, const std::vector<detail::io::TensorToWrite>& tensors) const {
    write_config(name, kVocab, kHidden,
                 R"(, "quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 3]})");
    write_tensors(path(name) + "/model.safetensors", tensors);
    return path(name);
  }
  std::string f8_model() const {
    return model("f8", {{"lm_head.weight", "F8_E4M3", {kVocab, kHidden}, std::as_bytes(std::span(f8_))},
                        {"lm_head.weight_scale_inv", "F32", {kBlocks, kColumns}, std::as_bytes(std::span(scales_))}});
  }
  std::vector<float> logprobs(const std::string& model, const std::vector<std::string>& more) const {
    std::vector<std::string> line = {"score", model, "--input", path("input"), "--output", path("output")};
    line.insert(line.end(), more.begin(), more.end());
    const Finished finished = run_command(line);
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    return read_tensor<float>(path("output"), "logprobs", "F32");
  }

  std::vector<std::uint8_t> f8_;
  std::vector<float> scales_;
  std::vector<double> products_;
};

TEST_F(Encoded, RealProductsAndProductsInBf16) {
  write_input("input", usual_input(), kHidden);
  const std::string f8 = f8_model();
  const std::string f64 =
      model("f64", {{"lm_head.weight", "F64", {kVocab, kHidden}, std::as_bytes(std::span(products_))}});
  std::vector<std::uint16_t> rounded;
  for (const double product : products_) {
    const double unit = std::ldexp(1, std::ilogb(product) - 7);
    const auto nearest = static_cast<float>(std::nearbyint(product / unit) * unit);
    std::uint32_t bits;
    std::memcpy(&bits, &nearest, sizeof bits);
    rounded.push_back(static_cast<std::uint16_t>(bits >> 16));
  }
  const std::string bf16 =
      model("bf16", {{"lm_head.weight", "BF16", {kVocab, kHidden}, std::as_bytes(std::span(rounded))}});
  const std::vector<float> real = logprobs(f8, {});
  EXPECT_EQ(real, logprobs(f64, {}));
  EXPECT_EQ(real, logprobs(f8, {"--kernel", "reference"}));
  EXPECT_EQ(logprobs(f8, {"--f8", "bf16"}), logprobs(bf16, {}));
  EXPECT_NE(real, logprobs(bf16, {}));
}

TEST_F(Encoded, InfoTellsTheScales) {
  const std::string model = f8_model();
  const json told = json::parse(run_command({"info", model, "--json"}).out);
  EXPECT_EQ(told["dtype"], "f8_e4m3");
  EXPECT_EQ(told["scales"]["tensor"], "lm_head.weight_scale_inv");
  EXPECT_EQ(told["scales"]["dtype"], "f32");
  EXPECT_EQ(told["scales"]["block"], (json{16, 3}));
  EXPECT_EQ(told["scales"]["shape"], (json{kBlocks, kColumns}));
  EXPECT_EQ(told["scales"]["product"], "real");
  EXPECT_EQ(told["memory"]["mapped_bytes"], kVocab * kHidden + 4 * kBlocks * kColumns);
  EXPECT_EQ(json::parse(run_command({"info", model, "--f8", "bf16", "--json"}).out)["scales"]["product"], "bf16");
  const Finished table = run_command({"info", model});
  EXPECT_NE(table.out.find("f32, one a block of [16, 3]; products of real numbers"), std::string::npos) << table.out;
}

TEST_F(Encoded, TheOptionIsForF8) {
  const Finished refused = run_command({"info", usual_model(), "--f8", "bf16"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("--f8: the head of"), std::string::npos) << refused.err;
  EXPECT_EQ(run_command({"info", usual_model(), "--f8", "odd"}).exit_code, 2);
}

}  // namespace
}  // namespace isologit::test
