// isologit sample: what it prints and writes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

class Sample : public Workspace {
 protected:
  Sample() : model_(usual_model()), input_(write_input("in.safetensors", usual_input(), kHidden)) {}

  Finished sample(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"sample", model_, "--input", input_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_command(arguments);
  }

  std::vector<std::int64_t> ids(std::vector<std::string> more) const {
    more.emplace_back("--json");
    const Finished finished = sample(std::move(more));
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    const json object = json::parse(finished.out, nullptr, false);
    return object["ids"].get<std::vector<std::int64_t>>();
  }

  std::string model_;
  std::string input_;
};

TEST_F(Sample, GreedyIsScoresArgmaxAndLogprobsAreScores) {
  const std::string greedy = path("greedy.safetensors");
  const Finished finished = sample({"--temperature", "0", "--output", greedy});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  Input again = usual_input();
  again.token_ids = read_tensor<std::int64_t>(greedy, "ids", "I64");
  const std::string rescored = write_input("again.safetensors", again, kHidden);
  const std::string scores = path("scores.safetensors");
  ASSERT_EQ(run_command({"score", model_, "--input", rescored, "--output", scores}).exit_code, 0);
  EXPECT_EQ(again.token_ids, read_tensor<std::int64_t>(scores, "argmax", "I64"));
  EXPECT_EQ(read_tensor<float>(greedy, "logprobs", "F32"), read_tensor<float>(scores, "logprobs", "F32"));
  EXPECT_EQ(read_tensor<float>(greedy, "log_kept_cut", "F32"), std::vector<float>(kRows, 0.0F));
}

TEST_F(Sample, DrawsGoByRowSeedAndSequence) {
  const std::vector<std::int64_t> all = ids({"--seed", "5"});
  ASSERT_EQ(all.size(), static_cast<std::size_t>(kRows));
  EXPECT_EQ(ids({"--seed", "5", "--rows", "7:12", "--threads", "1", "--kernel", "reference"}),
            std::vector<std::int64_t>(all.begin() + 7, all.begin() + 12));
  EXPECT_NE(ids({"--seed", "6"}), all);
  EXPECT_NE(ids({"--seed", "5", "--sequence-id", "18446744073709551615"}), all);
  EXPECT_EQ(ids({"--seed", "6", "--top-k", "1"}), ids({"--temperature", "0"}));
  EXPECT_EQ(ids({"--seed", "6", "--min-p", "1"}), ids({"--temperature", "0"}));
  EXPECT_EQ(ids({"--seed", "6", "--top-p", "1e-30"}), ids({"--temperature", "0"}));
}

TEST_F(Sample, WrongCommandLines) {
  const auto refused = [&](const std::vector<std::string>& more, const std::string& words) {
    const Finished finished = sample(more);
    EXPECT_EQ(finished.exit_code, 2) << words;
    EXPECT_EQ(finished.out, "");
    EXPECT_NE(finished.err.find(words), std::string::npos) << finished.err;
  };
  refused({"--temperature", "-1"}, "--temperature: '-1'; expected a finite number, 0 (greedy) or above");
  refused({"--top-p", "0"}, "--top-p: '0'; expected a number above 0, up to 1");
  refused({"--min-p", "1.5"}, "--min-p: '1.5'; expected a number from 0 to 1");
  refused({"--top-k", "-3"}, "--top-k");
  refused({"--seed", "-3"}, "--seed: '-3'; expected an integer from 0 to 2^64 - 1");
  refused({"--sequence-id", "18446744073709551616"}, "--sequence-id: '18446744073709551616'; expected an integer");
  refused({"--kernel", "best"}, "--kernel: 'best' is unknown");
}

TEST_F(Sample, TableTellsTheIds) {
  const Finished finished = sample({"--rows", "0:2", "--temperature", "0"});
  ASSERT_EQ(finished.exit_code, 0);
  const std::vector<std::int64_t> greedy = ids({"--rows", "0:2", "--temperature", "0"});
  const std::string told = std::to_string(greedy[0]) + " " + std::to_string(greedy[1]) + "\n";
  EXPECT_NE(finished.out.find("ids            " + told), std::string::npos) << finished.out;
}

}  // namespace
}  // namespace isologit::test
