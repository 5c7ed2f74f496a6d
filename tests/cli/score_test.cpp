// isologit score: what it prints and writes.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/summary.hpp"
#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

class Score : public Workspace {
 protected:
  Score() : model_(usual_model()), input_(write_input("in.safetensors", usual_input(), kHidden)) {}

  Finished score(std::vector<std::string> more, const std::string& input = "") const {
    std::vector<std::string> arguments = {"score", model_, "--input", input.empty() ? input_ : input};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments);
  }

  json score_json(std::vector<std::string> more, const std::string& input = "") const {
    more.emplace_back("--json");
    const Finished finished = score(std::move(more), input);
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    EXPECT_EQ(finished.err, "");
    return json::parse(finished.out, nullptr, false);
  }

  // Bits, so that two NaNs and two zeros compare as what they are.
  static std::vector<std::uint32_t> bits(const std::vector<float>& values) {
    std::vector<std::uint32_t> result;
    for (float value : values) result.push_back(std::bit_cast<std::uint32_t>(value));
    return result;
  }

  std::string model_;
  std::string input_;
};

// By the system's own tool.
std::string sha256sum(const std::string& file) {
  std::FILE* tool = ::popen(("sha256sum < '" + file + "'").c_str(), "r");
  std::array<char, 65> digest{};
  const bool read = tool != nullptr && std::fread(digest.data(), 1, 64, tool) == 64;
  EXPECT_TRUE(read);
  if (tool != nullptr) ::pclose(tool);
  return digest.data();
}

// The logprob and the entropy of a row in plain double arithmetic.
struct Plain {
  double logprob;
  double lse;
  double entropy;
  std::int64_t argmax;
  std::int64_t rank;
};
Plain plain(const float* hidden, const std::vector<float>& weight, std::int64_t id, double temperature) {
  std::vector<double> z;
  for (std::size_t v = 0; v < weight.size() / 8; ++v) {
    double sum = 0;
    for (std::size_t k = 0; k < 8; ++k) sum += static_cast<double>(hidden[k]) * static_cast<double>(weight[v * 8 + k]);
    z.push_back(sum / temperature);
  }
  double total = 0;
  double weighted = 0;
  for (double x : z) total += std::exp(x);
  for (double x : z) weighted += std::exp(x) * x;
  const auto target = static_cast<std::size_t>(id);
  std::int64_t rank = 1;
  for (std::size_t v = 0; v < z.size(); ++v) rank += z[v] > z[target] || (z[v] == z[target] && v < target);
  const auto top = std::max_element(z.begin(), z.end()) - z.begin();
  return {z[target] - std::log(total), std::log(total), std::log(total) - weighted / total, top, rank};
}

TEST_F(Score, OutputHoldsEachRowsResults) {
  const json told = score_json({"--output", path("out.safetensors")});
  const auto logprobs = read_tensor<float>(path("out.safetensors"), "logprobs", "F32");
  const auto lse = read_tensor<float>(path("out.safetensors"), "lse", "F32");
  const auto entropy = read_tensor<float>(path("out.safetensors"), "entropy", "F32");
  const auto argmax = read_tensor<std::int64_t>(path("out.safetensors"), "argmax", "I64");
  const auto rank = read_tensor<std::int64_t>(path("out.safetensors"), "rank", "I64");
  ASSERT_EQ(logprobs.size(), std::size_t{kRows});
  ASSERT_EQ(rank.size(), std::size_t{kRows});
  const Input input = usual_input();
  for (std::size_t i = 0; i < std::size_t{kRows}; ++i) {
    if (input.token_ids[i] == -100) {
      EXPECT_EQ(bits({logprobs[i], lse[i], entropy[i]}), bits({0, 0, 0})) << i;
      EXPECT_EQ(argmax[i], 0) << i;
      EXPECT_EQ(rank[i], 0) << i;
      continue;
    }
    const Plain expected = plain(&input.hidden[i * kHidden], usual_weight(), input.token_ids[i], 1);
    EXPECT_NEAR(logprobs[i], expected.logprob, 1e-5) << i;
    EXPECT_NEAR(lse[i], expected.lse, 1e-5) << i;
    EXPECT_NEAR(entropy[i], expected.entropy, 1e-5) << i;
    EXPECT_EQ(argmax[i], expected.argmax) << i;
    EXPECT_EQ(rank[i], expected.rank) << i;
  }
  EXPECT_EQ(told["rows"], kRows);
  EXPECT_EQ(told["ignored"], 2);
}

TEST_F(Score, JsonTellsTheRun) {
  const json told = score_json({"--threads", "2", "--kernel", "portable"});
  EXPECT_EQ(told["model"], model_);
  EXPECT_EQ(told["input"], input_);
  EXPECT_EQ(told["vocab_size"], kVocab);
  EXPECT_EQ(told["hidden_size"], kHidden);
  EXPECT_EQ(told["kernel"], "portable");
  EXPECT_EQ(told["arithmetic"], "exact");
  EXPECT_EQ(told["threads"], 2);
  EXPECT_GT(told["seconds"].get<double>(), 0);
  EXPECT_TRUE(told["logit_fallbacks"].is_number_integer());
  EXPECT_TRUE(told["undecided_rows"].is_number_integer());
  EXPECT_GE(told["rounds"], 1);
  EXPECT_TRUE(told["mean_logprob"].is_number_float());
  EXPECT_TRUE(told["perplexity"].is_number_float());
  EXPECT_EQ(told["digest"].get<std::string>().size(), 64U);
}

TEST_F(Score, DigestIsOfTheScoredLogprobs) {
  const json told = score_json({"--output", path("out.safetensors")});
  const auto logprobs = read_tensor<float>(path("out.safetensors"), "logprobs", "F32");
  std::ofstream raw(path("raw"), std::ios::binary);
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    const auto word = std::bit_cast<std::uint32_t>(logprobs[i]);
    if (i == 4 || i == 17) continue;
    for (unsigned shift = 0; shift < 32; shift += 8) raw.put(static_cast<char>(word >> shift & 0xFFU));
  }
  raw.close();
  EXPECT_EQ(std::filesystem::file_size(path("raw")), 4U * (kRows - 2));
  EXPECT_EQ(told["digest"], sha256sum(path("raw")));
}

TEST_F(Score, UniformModelHasKnownMeanAndPerplexity) {
  const std::string model = write_model("uniform", std::vector<float>(4 * 2, 0.0F), 4, 2);
  Input input;
  input.hidden.assign(3 * 2, 1.0F);
  input.token_ids = {0, 3, 1};
  const std::string file = write_input("uniform.safetensors", input, 2);
  const Finished finished = run_command({"score", model, "--input", file, "--json"});
  const json told = json::parse(finished.out);
  // RN32(ln 4) is 1.38629436492919921875, and e to that number is 4.0000000152370918...
  EXPECT_EQ(told["mean_logprob"].get<double>(), -1.38629436492919921875);
  EXPECT_NEAR(told["perplexity"].get<double>(), 4.0000000152, 1e-9);
}

TEST_F(Score, SlicesEqualTheRowsOfTheWhole) {
  score_json({"--output", path("all.safetensors")});
  const auto logprobs = bits(read_tensor<float>(path("all.safetensors"), "logprobs", "F32"));
  const auto rank = read_tensor<std::int64_t>(path("all.safetensors"), "rank", "I64");
  const struct {
    const char* rows;
    std::size_t begin;
    std::size_t end;
  } cases[] = {{"3:19", 3, 19}, {":5", 0, 5}, {"20:", 20, kRows}, {"6:7", 6, 7}, {":", 0, kRows}};
  for (const auto& c : cases) {
    const json told = score_json({"--rows", c.rows, "--output", path("part.safetensors")});
    EXPECT_EQ(told["rows"], c.end - c.begin);
    const auto part = bits(read_tensor<float>(path("part.safetensors"), "logprobs", "F32"));
    const auto part_rank = read_tensor<std::int64_t>(path("part.safetensors"), "rank", "I64");
    ASSERT_EQ(part.size(), c.end - c.begin) << c.rows;
    EXPECT_TRUE(std::equal(part.begin(), part.end(), &logprobs[c.begin])) << c.rows;
    EXPECT_TRUE(std::equal(part_rank.begin(), part_rank.end(), &rank[c.begin])) << c.rows;
  }
}

TEST_F(Score, NarrowIdsAreTheSameIds) {
  Input input = usual_input();
  input.narrow_ids = true;
  const json narrow = score_json({}, write_input("narrow.safetensors", input, kHidden));
  EXPECT_EQ(narrow["ignored"], 2);
  EXPECT_EQ(narrow["digest"], score_json({})["digest"]);
}

TEST_F(Score, TemperatureIsThatOfEachRow) {
  Input input = usual_input();
  input.temperatures.assign(kRows, 0.7F);
  const std::string file = write_input("tempered.safetensors", input, kHidden);
  const json each = score_json({}, file);
  const json scalar = score_json({"--temperature", "0.7", "--output", path("out.safetensors")});
  EXPECT_EQ(each["digest"], scalar["digest"]);
  EXPECT_NE(each["digest"], score_json({})["digest"]);
  const auto logprobs = read_tensor<float>(path("out.safetensors"), "logprobs", "F32");
  EXPECT_NEAR(logprobs[0], plain(input.hidden.data(), usual_weight(), input.token_ids[0], 0.7).logprob, 1e-5);
  // A slice takes its own rows' temperatures.
  for (std::size_t i = 0; i < std::size_t{kRows}; ++i) input.temperatures[i] = 1.0F + static_cast<float>(i) / 8;
  const std::string rising = write_input("rising.safetensors", input, kHidden);
  score_json({"--rows", "8:10", "--output", path("out.safetensors")}, rising);
  const auto part = read_tensor<float>(path("out.safetensors"), "logprobs", "F32");
  EXPECT_NEAR(part[0], plain(&input.hidden[8 * kHidden], usual_weight(), input.token_ids[8], 2.0).logprob, 1e-5);
}

TEST_F(Score, TheSameDigestForAnyThreadsAndKernel) {
  const json first = score_json({"--threads", "1"});
  for (const char* kernel : {"portable", "reference"}) {
    for (const char* threads : {"1", "2", "3"}) {
      EXPECT_EQ(score_json({"--threads", threads, "--kernel", kernel})["digest"], first["digest"]) << kernel;
    }
  }
}

TEST_F(Score, MeanIsNullWhenThereIsNone) {
  Input input = usual_input();
  input.token_ids.assign(kRows, -100);
  const json told = score_json({}, write_input("ignored.safetensors", input, kHidden));
  EXPECT_EQ(told["ignored"], kRows);
  EXPECT_TRUE(told["mean_logprob"].is_null());
  EXPECT_TRUE(told["perplexity"].is_null());
  EXPECT_EQ(told["digest"], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");  // of nothing
  const json empty = score_json({}, write_input("empty.safetensors", Input{}, kHidden));
  EXPECT_EQ(empty["rows"], 0);
  EXPECT_TRUE(empty["mean_logprob"].is_null());
}

TEST_F(Score, NotFiniteMeansAreNull) {
  Input input = usual_input();
  input.hidden[5 * kHidden] = std::nanf("");
  const std::string file = write_input("nan.safetensors", input, kHidden);
  const json told = score_json({"--output", path("out.safetensors")}, file);
  EXPECT_TRUE(told["mean_logprob"].is_null());
  EXPECT_TRUE(told["perplexity"].is_null());
  const auto logprobs = bits(read_tensor<float>(path("out.safetensors"), "logprobs", "F32"));
  EXPECT_EQ(logprobs[5], 0x7FC00000U);
  EXPECT_NE(logprobs[6], 0x7FC00000U);
  EXPECT_FALSE(score_json({"--rows", "6:"}, file)["mean_logprob"].is_null());
}

TEST_F(Score, TableNamesWhatMatters) {
  const Finished finished = score({"--rows", "2:20", "--temperature", "0.5", "--output", path("out.safetensors")});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.err, "");  // no progress where there is no terminal
  const json told = score_json({"--rows", "2:20", "--temperature", "0.5"});
  for (const std::string& part :
       {model_, std::string("lm_head.weight  f32 [50, 8]"), std::string("18 (2 to 19), 2 of them ignored"),
        std::string("temperature    0.5"), std::string("exact arithmetic"), told["digest"].get<std::string>(),
        told["mean_logprob"].dump(), told["perplexity"].dump(), path("out.safetensors")}) {
    EXPECT_NE(finished.out.find(part), std::string::npos) << part << " in\n" << finished.out;
  }
}

TEST_F(Score, NoLocaleChangesAnything) {
  std::string name = "C.UTF-8";
  for (const char* comma : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"}) {
    if (locale_t found = ::newlocale(LC_ALL_MASK, comma, nullptr); found != nullptr) {
      ::freelocale(found);
      name = comma;
      break;
    }
  }
  const std::vector<std::string> arguments = {"score", model_,   "--input",   input_, "--temperature",
                                              "0.7",   "--json", "--threads", "1"};
  json plain_run = json::parse(run_command(arguments, [] { ::setenv("LC_ALL", "C", 1); }).out);
  json other_run = json::parse(run_command(arguments, [&] { ::setenv("LC_ALL", name.c_str(), 1); }).out);
  plain_run.erase("seconds");
  other_run.erase("seconds");
  EXPECT_EQ(plain_run, other_run);
}

}  // namespace
}  // namespace isologit::test
