// isologit score under mpirun: the bits of one process, and what is told where one of several fails.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

Words joined(Words first, const Words& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

// mpirun with these words in the place of the command.
Finished mpirun(const Words& words) {
  Words line = joined({"mpirun", "--allow-run-as-root", "--oversubscribe"}, words);
  return run_command({}, [&line] {
    std::vector<char*> pointers;
    for (std::string& word : line) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    ::execvp("mpirun", pointers.data());
  });
}

std::string content(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// On a busy machine mpirun may drop what processes wrote just before it ends: nothing else is told, then.
void expect_told(const std::string& err, const std::string& told) {
  if (err.find("isologit:") == std::string::npos) return;
  EXPECT_NE(err.find(told), std::string::npos) << err;
}

class Ranks : public Workspace {
 protected:
  Words score(const std::string& model, const Words& more = {}) const {
    return joined({"score", model, "--input", path("input"), "--json"}, more);
  }

  // One process, then `sizes` of them: the same file and the same digest.
  void expect_same(const std::string& model, const std::vector<int>& sizes, const Words& more = {}) const {
    const Words one = score(model, joined(more, {"--output", path("one")}));
    const Finished alone = run_command(one);
    ASSERT_EQ(alone.exit_code, 0) << alone.err;
    for (const int size : sizes) {
      const Words command = score(model, joined(more, {"--output", path("several")}));
      const Finished several = mpirun(joined({"-np", std::to_string(size), ISOLOGIT_COMMAND}, command));
      ASSERT_EQ(several.exit_code, 0) << several.err;
      const json told = json::parse(several.out);  // one object: the first process alone prints
      EXPECT_EQ(told["digest"], json::parse(alone.out)["digest"]) << size;
      EXPECT_EQ(told.value("ranks", 1), size);
      EXPECT_EQ(content(path("several")), content(path("one"))) << size;
    }
  }
};

TEST_F(Ranks, TheBitsOfOneProcess) {
  Input input = usual_input();
  for (std::int64_t row = 0; row < kRows; ++row) {
    input.temperatures.push_back(0.5F + 0.125F * static_cast<float>(row));
    input.banned_offsets.push_back(row);
    input.banned_ids.push_back((row * 7) % 20);
  }
  input.banned_offsets.push_back(kRows);
  write_input("input", input, kHidden);
  expect_same(usual_model(), {1, 2, 3}, {"--top-k", "5", "--with", "raw_logprobs,sum_p2,log_kept"});
}

TEST_F(Ranks, HeadsOfF8AndWithAnAdapter) {
  write_input("input", usual_input(), kHidden);
  std::vector<std::uint8_t> f8;
  for (int i = 0; i < kVocab * kHidden; ++i) f8.push_back(static_cast<std::uint8_t>(40 + (i * 37) % 32));
  const std::vector<float> scales = some_values(12, 3);
  write_config("f8", kVocab, kHidden,
               R"(, "quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 3]})");
  write_tensors(path("f8/model.safetensors"),
                {{"lm_head.weight", "F8_E4M3", {kVocab, kHidden}, std::as_bytes(std::span(f8))},
                 {"lm_head.weight_scale_inv", "F32", {4, 3}, std::as_bytes(std::span(scales))}});
  expect_same(path("f8"), {3});

  std::filesystem::create_directories(path("adapter"));
  std::ofstream(path("adapter/adapter_config.json")) << R"({"peft_type":"LORA","r":2,"lora_alpha":3,"bias":"none"})";
  const std::vector<float> a = some_values(2 * kHidden, 5);
  const std::vector<float> b = some_values(kVocab * 2, 6);
  write_tensors(path("adapter/adapter_model.safetensors"),
                {{"base_model.model.lm_head.lora_A.weight", "F32", {2, kHidden}, std::as_bytes(std::span(a))},
                 {"base_model.model.lm_head.lora_B.weight", "F32", {kVocab, 2}, std::as_bytes(std::span(b))}});
  expect_same(usual_model(), {2}, {"--adapter", path("adapter")});
}

TEST_F(Ranks, MoreProcessesThanIds) {
  Input input = usual_input();
  for (std::int64_t& id : input.token_ids) id = id < 0 ? id : id % 2;
  write_input("input", input, kHidden);
  expect_same(write_model("tiny", some_values(2 * kHidden, 1), 2, kHidden), {3});
}

// Of 2 and 3 processes each runs with the pages of the others' rows taken away, and one process alone without those of
// the second half: it ends, so that the others would have.
TEST_F(Ranks, NoneReadsTheRowsOfAnother) {
  constexpr std::int64_t kMany = 1500;
  constexpr std::int64_t kWide = 128;
  Input input = usual_input();
  input.hidden = some_values(static_cast<std::size_t>(kRows * kWide), 2);
  write_input("input", input, kWide);
  const std::string model = write_model("large", some_values(kMany * kWide, 1), kMany, kWide);
  const std::string file = model + "/model.safetensors";
  const std::string bytes = content(file);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  header += sizeof header;
  const std::vector<float> weight = some_values(kMany * kWide, 1);
  const auto* from = reinterpret_cast<const char*>(weight.data());
  const std::size_t first = bytes.find(std::string(from, weight.size() * sizeof(float)), header);
  ASSERT_NE(first, std::string::npos);

  const auto guarded = [&](int processes, int parts) {
    std::string only = std::to_string(header);
    for (std::int64_t r = 0; r < parts; ++r) {
      for (const std::int64_t row : {kMany * r / parts, kMany * (r + 1) / parts}) {
        only += " " + std::to_string(first + static_cast<std::size_t>(row * kWide) * sizeof(float));
      }
    }
    const std::string preload = std::string("LD_PRELOAD=") + ONLY_OWN_ROWS;
    return mpirun(joined(
        {"-np", std::to_string(processes), "env", preload, "ONLY_FILE=" + file, "ONLY_BYTES=" + only, ISOLOGIT_COMMAND},
        score(model, {"--output", path("several"), "--top-k", "3"})));
  };
  ASSERT_EQ(run_command(score(model, {"--output", path("one"), "--top-k", "3"})).exit_code, 0);
  for (const int size : {2, 3}) {
    const Finished several = guarded(size, size);
    EXPECT_EQ(several.exit_code, 0) << several.err;
    EXPECT_EQ(content(path("several")), content(path("one"))) << size;
  }
  std::filesystem::remove(path("several"));
  EXPECT_EQ(guarded(1, 2).exit_code, 128 + SIGSEGV);
  EXPECT_EQ(guarded(1, 1).exit_code, 0);
}

TEST_F(Ranks, OneThatFailsIsAnErrorOfAll) {
  write_input("input", usual_input(), kHidden);
  const std::string model = usual_model();
  const Words first = joined({"-np", "1", ISOLOGIT_COMMAND}, score(model, {"--output", path("output")}));
  const auto beside = [&](const Words& other) { return mpirun(joined(joined(first, {":", "-np", "1"}), other)); };
  const auto refused = [&](const Words& other, int exit_code, const std::string& told) {
    const Finished finished = beside(other);
    EXPECT_EQ(finished.exit_code, exit_code) << finished.err;
    EXPECT_EQ(finished.out, "");
    expect_told(finished.err, told);
    EXPECT_FALSE(std::filesystem::exists(path("output")));
  };
  refused({ISOLOGIT_COMMAND, "score", model, "--input", path("nowhere"), "--output", path("output")}, 1,
          "isologit: process 1 of mpirun: cannot open ");
  refused(joined({ISOLOGIT_COMMAND}, score(model, {"--output", path("output"), "--rows", "1:5"})), 1,
          "isologit: rows, head or options differ between process 0 and process 1 of mpirun");
  refused({"sh", "-c", "kill -9 $$"}, 137, "");
}

// Both are at work for long; the one that is not stopped learns of it at the first exchange.
TEST_F(Ranks, OneThatIsStoppedMeanwhile) {
  constexpr std::int64_t kMany = 30000;
  constexpr std::int64_t kWide = 128;
  Input input = usual_input();
  input.hidden = some_values(static_cast<std::size_t>(kRows * kWide), 2);
  write_input("input", input, kWide);
  const std::string model = write_model("large", some_values(kMany * kWide, 1), kMany, kWide);
  const Words reference = {"--kernel", "reference", "--threads", "1"};
  const Words slow = {"timeout", "1", ISOLOGIT_COMMAND};
  const Finished finished =
      mpirun(joined(joined(joined({"-np", "1", ISOLOGIT_COMMAND}, score(model, reference)), {":", "-np", "1"}),
                    joined(slow, score(model, reference))));
  EXPECT_NE(finished.exit_code, 0);
  EXPECT_EQ(finished.out, "");
  expect_told(finished.err, "isologit: process 1 of mpirun: interrupted; nothing was written");
}

}  // namespace
}  // namespace isologit::test
