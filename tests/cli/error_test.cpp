// What goes wrong: the exit code, a message that names the thing, nothing on standard output and no file left.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

class Errors : public Workspace {
 protected:
  Errors() : model_(usual_model()), input_(write_input("in.safetensors", usual_input(), kHidden)) {}

  static void expect(const Finished& finished, int exit_code, const std::string& words) {
    EXPECT_EQ(finished.exit_code, exit_code) << finished.err;
    EXPECT_NE(finished.err.find(words), std::string::npos) << "'" << words << "' in: " << finished.err;
    EXPECT_EQ(finished.err.rfind("isologit: ", 0), 0U) << finished.err;
    EXPECT_EQ(finished.out, "");
  }

  // score with the usual model and --json, which must not print half an object.
  void expect_score(const std::vector<std::string>& more, int exit_code, const std::string& words,
                    const std::string& input = "") const {
    std::vector<std::string> arguments = {"score", model_, "--json", "--input", input.empty() ? input_ : input};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect(run_command(arguments), exit_code, words);
  }

  std::string model_;
  std::string input_;
};

TEST_F(Errors, Usage) {
  const std::string verbs =
      "expected one of score, sample, logits, info, kernels, bench, verify, audit, capture, integrations\n";
  expect(run_command({}), 2, "no verb; " + verbs);
  expect(run_command({"divine"}), 2, "verb 'divine' is unknown; " + verbs + "Run 'isologit --help'");
  expect(run_command({"divine", "--sideways", model_}), 2, "verb 'divine' is unknown");
  expect(run_command({"score"}), 2, "MODEL is required");
  expect(run_command({"score", model_}), 2, "--input is required");
  expect(run_command({"info"}), 2, "isologit info --help");
  expect_score({"--sideways"}, 2, "--sideways");
  expect_score({"--threads", "-1"}, 2, "--threads");
  expect_score({"--threads", "many"}, 2, "--threads");
  expect_score({"--threads", "1025"}, 2, "--threads");
  expect_score({"--kernel", "abacus"}, 2, "--kernel: 'abacus' is unknown; known are ");
}

TEST_F(Errors, Temperature) {
  for (const char* bad : {"0", "-1", "-0", "nan", "inf", "-inf", "1e50", "1e-60", "0,7", "0.7x", "", " 1"}) {
    expect_score({"--temperature", bad}, 2, std::string("--temperature: '") + bad + "'; expected a finite number");
  }
  Input input = usual_input();
  input.temperatures.assign(kRows, 0.7F);
  const std::string tempered = write_input("tempered.safetensors", input, kHidden);
  expect_score({"--temperature", "0.7"}, 2, "tensor temperatures", tempered);
  input.temperatures[11] = 0;
  const std::string zero = write_input("zero.safetensors", input, kHidden);
  expect_score({}, 1, "temperatures[11] is 0;", zero);
  expect_score({"--rows", "10:13"}, 1, "temperatures[11] is 0;", zero);
}

TEST_F(Errors, Rows) {
  for (const char* bad : {"5", "a:b", "-3:5", "3:-1", "1:2:3", "1.5:3", "", "99999999999999999999:"}) {
    expect_score({std::string("--rows=") + bad}, 2, "--rows: ");
  }
  expect_score({"--rows", "9:4"}, 2, "names no row: 9 is not before 4");
  expect_score({"--rows", "9:9"}, 2, "names no row");
  expect_score({"--rows", "23:"}, 2, "names no row");
  expect_score({"--rows", "0:24"}, 2, "has 23 rows");
  expect_score({"--rows", "24:"}, 2, "has 23 rows");
}

TEST_F(Errors, IdsNameTheRowOfTheFile) {
  for (const std::int64_t bad : {kVocab, std::int64_t{-1}, std::int64_t{-101}}) {
    Input input = usual_input();
    input.token_ids[13] = bad;
    const std::string file = write_input("ids.safetensors", input, kHidden);
    const std::string words = "token_ids[13] is " + std::to_string(bad) + ";";
    expect_score({}, 1, words, file);
    expect_score({"--rows", "12:14"}, 1, words, file);
    const std::vector<std::string> elsewhere = {"score", model_, "--input", file, "--rows", ":13"};
    EXPECT_EQ(run_command(elsewhere).exit_code, 0);
  }
}

TEST_F(Errors, WhatIsMissing) {
  expect(run_command({"score", "some/model", "--input", input_}, [] { ::setenv("HF_HUB_CACHE", "/nonexistent", 1); }),
         1, "hf download some/model");
  expect(run_command({"info", "some/model"}, [] { ::setenv("HF_HUB_CACHE", "/nonexistent", 1); }), 1,
         "hf download some/model");
  expect_score({}, 1, "absent.safetensors", path("absent.safetensors"));
  write_config("bare", kVocab, kHidden);
  expect(run_command({"info", path("bare")}), 1, path("bare"));
}

TEST_F(Errors, WhatDoesNotFit) {
  Input input;
  input.hidden = some_values(3 * 5, 3);
  input.token_ids = {1, 2, 3};
  expect_score({}, 1, "hidden_states has rows of 5 elements, but those of lm_head.weight have 8",
               write_input("narrow.safetensors", input, 5));
  std::ofstream(path("cut.safetensors"), std::ios::binary) << "\x10";
  expect_score({}, 1, "cut.safetensors", path("cut.safetensors"));
  expect(run_command({"score", model_, "--input", input_}, [] { ::setenv("ISOLOGIT_KERNEL", "abacus", 1); }), 1,
         "ISOLOGIT_KERNEL: 'abacus'");
}

TEST_F(Errors, NoOutputIsLeftByAFailure) {
  Input input = usual_input();
  input.token_ids[22] = kVocab;
  expect_score({"--output", path("out.safetensors")}, 1, "token_ids[22]",
               write_input("ids.safetensors", input, kHidden));
  expect_score({"--output", path("nowhere/out.safetensors")}, 1, path("nowhere"));
  expect_score({"--output", input_}, 2, "is the input");
  expect_score({"--output", ""}, 1, "names no file");
  expect_score({"--output", "/dev/null"}, 1, "/dev/null");
  EXPECT_EQ(files(), (std::vector<std::string>{"ids.safetensors", "in.safetensors", "model"}));
  EXPECT_TRUE(::access("/dev/null", W_OK) == 0);
}

TEST_F(Errors, ReadOnlyFolder) {
  std::filesystem::create_directory(path("closed"));
  std::filesystem::permissions(path("closed"), std::filesystem::perms(0555));
  const auto as_ordinary_owner = [] { ::prctl(PR_CAPBSET_DROP, 1 /* CAP_DAC_OVERRIDE */, 0, 0, 0); };
  const std::string output = path("closed/out.safetensors");
  const Finished finished = run_command({"score", model_, "--input", input_, "--output", output}, as_ordinary_owner);
  expect(finished, 1, path("closed"));
  EXPECT_NE(finished.err.find("Permission denied"), std::string::npos) << finished.err;
  EXPECT_TRUE(files("closed").empty());
}

TEST_F(Errors, FullDisk) {
  std::filesystem::create_directory(path("small"));
  const auto no_room = [] {
    ::signal(SIGXFSZ, SIG_IGN);  // so that writing fails instead
    const rlimit limit{512, 512};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  };
  const std::string output = path("small/out.safetensors");
  expect(run_command({"score", model_, "--input", input_, "--output", output}, no_room), 1, output);
  EXPECT_TRUE(files("small").empty());
  // What was there before stays.
  std::ofstream(output) << "precious";
  expect(run_command({"score", model_, "--input", input_, "--output", output}, no_room), 1, output);
  EXPECT_EQ(files("small"), std::vector<std::string>{"out.safetensors"});
  EXPECT_EQ(std::filesystem::file_size(output), 8U);
}

TEST_F(Errors, FullStandardOutput) {
  const auto full = [] { ::dup2(::open("/dev/full", O_WRONLY), STDOUT_FILENO); };
  for (const auto& arguments : {std::vector<std::string>{"score", model_, "--input", input_},
                                std::vector<std::string>{"info", model_, "--json"}, std::vector<std::string>{"kernels"},
                                std::vector<std::string>{"--help"}, std::vector<std::string>{"--version"}}) {
    expect(run_command(arguments, full), 1, "cannot write to standard output: No space left on device");
  }
}

}  // namespace
}  // namespace isologit::test
