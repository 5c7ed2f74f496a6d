// isologit logits: what it writes and prints, and that it writes in blocks.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

class Logits : public Workspace {
 protected:
  Logits() : model_(usual_model()), input_(write_input("in.safetensors", usual_input(), kHidden)) {}

  Finished logits(std::vector<std::string> more, const std::string& input = "") const {
    std::vector<std::string> arguments = {"logits",   model_, "--input", input.empty() ? input_ : input,
                                          "--output", out()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments);
  }
  json logits_json(std::vector<std::string> more, const std::string& input = "") const {
    more.emplace_back("--json");
    const Finished finished = logits(std::move(more), input);
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    EXPECT_EQ(finished.err, "");
    return json::parse(finished.out, nullptr, false);
  }
  std::string out() const { return path("out.safetensors"); }

  std::vector<std::int64_t> shape() const {
    const auto file = detail::io::SafetensorsFile::open(out());
    EXPECT_TRUE(file && file->tensors().size() == 1);
    return file ? file->find("logits")->shape : std::vector<std::int64_t>{};
  }

  // The usual values are multiples of 2^-6 below 4, so sums of 8 products are exact in f32.
  static float exact_logit(std::size_t row, std::size_t id) {
    static const std::vector<float> hidden = usual_input().hidden;
    static const std::vector<float> weight = usual_weight();
    float sum = 0;
    for (std::size_t k = 0; k < kHidden; ++k) sum += hidden[row * kHidden + k] * weight[id * kHidden + k];
    return sum;
  }

  std::string model_;
  std::string input_;
};

TEST_F(Logits, AreTheExactSums) {
  const json told = logits_json({});
  const auto values = read_tensor<float>(out(), "logits", "F32");
  ASSERT_EQ(shape(), (std::vector<std::int64_t>{kRows, kVocab}));
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], exact_logit(i / kVocab, i % kVocab)) << i;
  EXPECT_EQ(told["rows"], kRows);
  EXPECT_EQ(told["first_id"], 0);
  EXPECT_EQ(told["ids"], kVocab);
  EXPECT_EQ(told["dtype"], "f32");
  EXPECT_EQ(told["arithmetic"], "exact");
  EXPECT_EQ(told["output"], out());
}

TEST_F(Logits, RowsAndIdsAreThoseAskedFor) {
  const json told = logits_json({"--rows", "3:9", "--vocab", "40:", "--threads", "2", "--kernel", "portable"});
  ASSERT_EQ(shape(), (std::vector<std::int64_t>{6, 10}));
  const auto values = read_tensor<float>(out(), "logits", "F32");
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], exact_logit(3 + i / 10, 40 + i % 10)) << i;
  EXPECT_EQ(told["first_id"], 40);
  EXPECT_EQ(told["ids"], 10);
  EXPECT_EQ(told["threads"], 2);
  EXPECT_EQ(told["kernel"], "portable");
}

TEST_F(Logits, DigestIsOfTheTensorsBytes) {
  const json told = logits_json({"--dtype", "f16", "--rows", ":4"});
  const auto values = read_tensor<std::uint16_t>(out(), "logits", "F16");
  std::ofstream(path("raw"), std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(2 * values.size()));
  std::FILE* tool = ::popen(("sha256sum < '" + path("raw") + "'").c_str(), "r");
  ASSERT_NE(tool, nullptr);
  char digest[65] = {};
  EXPECT_EQ(std::fread(digest, 1, 64, tool), 64U);
  ::pclose(tool);
  EXPECT_EQ(told["digest"], digest);
}

// One id whose logit is 1 + 2^-8 + 2^-40: f32 takes it to the midpoint of two bf16 numbers, where a second rounding
// would go to 1; rounded once it is 1 + 2^-7.
TEST_F(Logits, NarrowOnesAreRoundedOnce) {
  const std::string model = write_model("narrow", {1, 0x1p-20F, 1, 0}, 2, 2);
  Input input;
  input.hidden = {1 + 0x1p-8F, 0x1p-20F};
  input.token_ids = {0};
  const std::string file = write_input("one.safetensors", input, 2);
  const auto written = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"logits", model, "--input", file, "--output", out(), "--dtype", "bf16"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    EXPECT_EQ(run_command(arguments).exit_code, 0);
    return read_tensor<std::uint16_t>(out(), "logits", "BF16");
  };
  EXPECT_EQ(written({}), (std::vector<std::uint16_t>{0x3F81, 0x3F80}));
  // A temperature is a step of its own, made from the f32 logit.
  EXPECT_EQ(written({"--temperature", "2"}), (std::vector<std::uint16_t>{0x3F00, 0x3F00}));
}

TEST_F(Logits, TemperaturesOfTheInputFollowTheirRows) {
  Input input = usual_input();
  for (std::size_t i = 0; i < kRows; ++i) input.temperatures.push_back(static_cast<float>(1U << (i % 5)));
  logits_json({"--rows", "2:12", "--vocab", "7:8"}, write_input("tempered.safetensors", input, kHidden));
  const auto values = read_tensor<float>(out(), "logits", "F32");
  for (std::size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(values[i], exact_logit(i + 2, 7) / static_cast<float>(1U << ((i + 2) % 5))) << i;
  }
}

// More rows than one block holds, 128 MiB being 240 rows of 2^17 ids in f32; and more than there is memory for.
TEST_F(Logits, AreWrittenInBlocks) {
  constexpr std::int64_t kIds = std::int64_t{1} << 17;
  constexpr std::int64_t kMany = 400;
  std::vector<float> weight(kIds);
  for (std::size_t v = 0; v < weight.size(); ++v) weight[v] = static_cast<float>(v);
  const std::string model = write_model("wide", weight, kIds, 1);
  Input input;
  for (std::int64_t i = 0; i < kMany; ++i) input.hidden.push_back(static_cast<float>(i % 64));
  input.token_ids.assign(kMany, 0);
  const std::string file = write_input("many.safetensors", input, 1);
  const auto little_memory = [] {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they need more than the command
    const rlimit limit{rlim_t{180} << 20, rlim_t{180} << 20};
    ::setrlimit(RLIMIT_DATA, &limit);
#endif
  };
  const std::vector<std::string> arguments = {"logits",   path("wide"), "--input",   file,
                                              "--output", out(),        "--threads", "2"};
  const Finished finished = run_command(arguments, little_memory);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const auto written = detail::io::SafetensorsFile::open(out());
  ASSERT_TRUE(written);
  const detail::io::Tensor* tensor = written->find("logits");
  ASSERT_EQ(tensor->shape, (std::vector<std::int64_t>{kMany, kIds}));
  for (std::int64_t row = 0; row < kMany; ++row) {
    for (std::int64_t id = row % 7; id < kIds; id += 1001) {
      float value = 0;
      std::memcpy(&value, tensor->data + 4 * (row * kIds + id), 4);
      ASSERT_EQ(value, static_cast<float>(row % 64 * id)) << row << ' ' << id;
    }
  }
}

TEST_F(Logits, TableNamesWhatMatters) {
  const Finished finished = logits({"--rows", "2:20", "--vocab", ":10", "--temperature", "0.5", "--dtype", "bf16"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.err, "");
  for (const std::string& part :
       {model_, std::string("lm_head.weight  f32 [50, 8]"), std::string("18 (2 to 19)"), std::string("10 (0 to 9)"),
        std::string("temperature    0.5"), std::string("exact arithmetic"), out() + "  logits bf16 [18, 10]"}) {
    EXPECT_NE(finished.out.find(part), std::string::npos) << part << " in\n" << finished.out;
  }
}

TEST_F(Logits, NoRowsAreNoLogits) {
  logits_json({}, write_input("empty.safetensors", Input{}, kHidden));
  EXPECT_EQ(shape(), (std::vector<std::int64_t>{0, kVocab}));
}

TEST_F(Logits, Refusals) {
  const auto refused = [&](const std::vector<std::string>& more, int exit_code, const std::string& words,
                           const std::string& input = "") {
    const Finished finished = logits(more, input);
    EXPECT_EQ(finished.exit_code, exit_code) << words;
    EXPECT_EQ(finished.out, "");
    EXPECT_NE(finished.err.find(words), std::string::npos) << finished.err;
  };
  refused({"--dtype", "f64"}, 2, "--dtype");
  refused({"--vocab", "5"}, 2, "--vocab: '5'; expected A:B, ids A to B - 1 counted from 0");
  refused({"--vocab", "9:4"}, 2, "--vocab: '9:4' names no id: 9 is not before 4");
  refused({"--vocab", "0:51"}, 2, "--vocab: '0:51' reaches past the vocabulary, which has 50 ids");
  refused({"--rows", "23:"}, 2, "--rows: '23:' names no row");
  refused({"--temperature", "0"}, 2, "--temperature: '0'; expected a finite number above 0");
  refused({"--kernel", "best"}, 2, "--kernel: 'best' is unknown");
  refused({"--threads", "-1"}, 2, "--threads");
  EXPECT_EQ(run_command({"logits", model_, "--input", input_, "--output", path("nowhere/out")}).exit_code, 1);
  EXPECT_EQ(run_command({"logits", model_, "--input", input_}).exit_code, 2);
  EXPECT_EQ(run_command({"logits", model_, "--input", input_, "--output", input_}).exit_code, 2);
  refused({}, 1, "cannot open", path("absent"));
  Input narrow;
  narrow.hidden = some_values(3 * 5, 3);
  narrow.token_ids = {1, 2, 3};
  refused({}, 1, "hidden_states has rows of 5 elements, but those of lm_head.weight have 8",
          write_input("narrow.safetensors", narrow, 5));
  Input tempered = usual_input();
  tempered.temperatures.assign(kRows, 1.0F);
  tempered.temperatures[5] = -1;
  const std::string file = write_input("tempered.safetensors", tempered, kHidden);
  refused({}, 1, "temperatures[5] is -1; expected a finite number above 0", file);
  refused({"--temperature", "2"}, 2, "tensor temperatures", file);
  EXPECT_EQ(files(),
            (std::vector<std::string>{"in.safetensors", "model", "narrow.safetensors", "tempered.safetensors"}));
}

TEST_F(Logits, AFullDiskLeavesNothing) {
  const auto no_room = [] {
    ::signal(SIGXFSZ, SIG_IGN);  // so that writing fails instead
    const rlimit limit{2000, 2000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  };
  const Finished finished = run_command({"logits", model_, "--input", input_, "--output", out()}, no_room);
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_NE(finished.err.find(out()), std::string::npos) << finished.err;
  EXPECT_EQ(files(), (std::vector<std::string>{"in.safetensors", "model"}));
}

}  // namespace
}  // namespace isologit::test
