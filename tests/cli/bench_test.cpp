// isologit bench: what it prints is complete and consistent; how fast anything is, no test says.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/bench_crossovers.hpp"
#include "cli/bench_data.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

std::vector<std::string> small(const std::string& more = "") {
  std::vector<std::string> arguments = {"bench", "--shape", "300,64", "--rows", "1,5", "--seconds", "0.001"};
  if (!more.empty()) arguments.push_back(more);
  return arguments;
}

TEST(Bench, JsonHasALineForEachCall) {
  std::vector<std::string> arguments = small("--json");
  arguments.insert(arguments.end(), {"--kernel", "portable,portable_fast", "--what", "logits,score,everything"});
  const Finished finished = run_command(arguments);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const json told = json::parse(finished.out);
  EXPECT_EQ(told["shape"], "300,64");
  EXPECT_FALSE(told["machine"].get<std::string>().empty());
  EXPECT_GT(told["read_gb_per_s"].get<double>(), 0);
  ASSERT_EQ(told["results"].size(), 12U);
  std::size_t i = 0;
  for (const int rows : {1, 5}) {
    for (const char* kernel : {"portable", "portable_fast"}) {
      for (const char* what : {"logits", "score", "everything"}) {
        const json& line = told["results"][i++];
        EXPECT_EQ(line["rows"], rows);
        EXPECT_EQ(line["kernel"], kernel);
        EXPECT_EQ(line["arithmetic"], std::string(kernel) == "portable" ? "exact" : "fast");
        EXPECT_EQ(line["what"], what);
        const double ms = line["ms"];
        EXPECT_GT(line["ms_min"].get<double>(), 0);
        EXPECT_LE(line["ms_min"].get<double>(), ms);
        EXPECT_GE(line["ms_max"].get<double>(), ms);
        EXPECT_NEAR(line["gb_per_s"].get<double>() * ms, 2e-6 * (300 + rows) * 64, 1e-9);
        EXPECT_NEAR(line["gflop_per_s"].get<double>() * ms, 2e-6 * rows * 300 * 64, 1e-9);
        EXPECT_GT(line["floor_ms"].get<double>(), 0);
      }
    }
  }
}

TEST(Bench, CrossoversAreThoseOfTheTimesTold) {
  std::vector<std::string> arguments = small("--crossovers");
  arguments.insert(arguments.end(), {"--json", "--what", "score"});
  const Finished finished = run_command(arguments);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const json told = json::parse(finished.out).value("crossovers", json::array());
  for (std::size_t k = 0; k < told.size(); ++k) {
    const std::vector<double> ms = told[k]["ms"];
    ASSERT_EQ(ms.size(), told[k]["rows"].size());
    for (const double one : ms) EXPECT_GT(one, 0);
    const json& from = told[k]["faster_than_next_from"];
    if (k + 1 == told.size()) {
      EXPECT_TRUE(from.is_null());
      continue;
    }
    // From there on every time is the lesser one, and right before it is not.
    for (std::size_t i = ms.size(); i-- > 0;) {
      const bool faster = ms[i] < told[k + 1]["ms"][i].get<double>();
      const bool said = !from.is_null() && told[k]["rows"][i].get<int>() >= from.get<int>();
      EXPECT_TRUE(!said || faster) << told[k]["rows"][i];
      if (!said) {
        EXPECT_FALSE(faster) << told[k]["rows"][i];
        break;
      }
    }
  }
}

TEST(Bench, ForwardHasALineForEachOperatorOfAnExactKernel) {
  std::vector<std::string> arguments = {"bench",     "--shape",  "300,256",
                                        "--rows",    "1,5",      "--what",
                                        "logits",    "--kernel", "portable,portable_fast,reference",
                                        "--seconds", "0.001",    "--forward"};
  const Finished table = run_command(arguments);
  ASSERT_EQ(table.exit_code, 0) << table.err;
  arguments.emplace_back("--json");
  const Finished finished = run_command(arguments);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const json told = json::parse(finished.out)["forward"];
  const char* operators[] = {"rms_norm of 256", "rotary, 2 heads of 128",
                             nullptr,  // by rows
                             "residual of 256", "linear, 256 to 768",     "gate silu of 768", "linear, 768 to 256"};
  ASSERT_EQ(told.size(), 2 * 2 * std::size(operators));
  std::size_t i = 0;
  for (const int rows : {1, 5}) {
    for (const char* kernel : {"portable", "reference"}) {
      for (const char* name : operators) {
        const json& line = told[i++];
        const std::string expected =
            name != nullptr ? name : "attention, 2 heads of 128, 2 of keys, " + std::to_string(512 + rows) + " keys";
        EXPECT_EQ(line["operator"], expected);
        EXPECT_EQ(line["rows"], rows);
        EXPECT_EQ(line["kernel"], kernel);
        EXPECT_GT(line["ms_min"].get<double>(), 0);
        EXPECT_LE(line["ms_min"].get<double>(), line["ms"].get<double>());
        EXPECT_GE(line["ms_max"].get<double>(), line["ms"].get<double>());
        EXPECT_NE(table.out.find(expected), std::string::npos) << expected;
      }
    }
  }
}

TEST(Bench, ACrossoverIsWhereTheFasterKernelStaysFaster) {
  std::vector<double> first(std::size(detail::cli::kCrossoverRows), 2.0);
  std::vector<double> second = first;
  EXPECT_EQ(detail::cli::crossover(first, second), std::nullopt);
  second.back() = 3;
  EXPECT_EQ(detail::cli::crossover(first, second), 16);
  second[0] = 3;  // faster at one row, not at two
  EXPECT_EQ(detail::cli::crossover(first, second), 16);
  for (std::size_t i = 7; i < second.size(); ++i) second[i] = 2.5;
  EXPECT_EQ(detail::cli::crossover(first, second), 8);
  second.assign(second.size(), 3.0);
  EXPECT_EQ(detail::cli::crossover(first, second), 1);
}

TEST(Bench, TableNamesTheMachineAndTheCeilings) {
  const Finished finished = run_command(small());
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  for (const char* part : {"machine", "reads memory at", "of multiply-adds", "x floor", "logits", "score"}) {
    EXPECT_NE(finished.out.find(part), std::string::npos) << part;
  }
}

TEST(Bench, WrongOptionsAreUsageErrors) {
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--shape", "qwen4"},
                                                {"--shape", "10,"},
                                                {"--shape", "0,4"},
                                                {"--rows", "0"},
                                                {"--kernel", "abacus"},
                                                {"--what", "speed"},
                                                {"--outliers", "-1"},
                                                {"--threads", "-1"},
                                                {"--seconds", "0"}}) {
    std::vector<std::string> arguments = {"bench"};
    arguments.insert(arguments.end(), wrong.begin(), wrong.end());
    const Finished finished = run_command(arguments);
    EXPECT_EQ(finished.exit_code, 2) << wrong[0] << " " << wrong[1];
    EXPECT_NE(finished.err.find(wrong[0]), std::string::npos) << finished.err;
  }
}

TEST(BenchData, IsNormalAndTheSameForEveryNumberOfThreads) {
  const auto one = detail::cli::normal_bf16(100003, 1.0F, 7, 1);
  EXPECT_EQ(detail::cli::normal_bf16(100003, 1.0F, 7, 3), one);
  EXPECT_NE(detail::cli::normal_bf16(100003, 1.0F, 8, 1), one);
  double sum = 0;
  double squares = 0;
  for (const std::uint16_t bits : one) {
    const auto x = static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 100003, 0, 0.02);
  EXPECT_NEAR(squares / 100003, 1, 0.03);
}

}  // namespace
}  // namespace isologit::test
