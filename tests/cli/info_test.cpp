// isologit info, isologit kernels, --help and --version.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "fixture.hpp"
#include "io/safetensors_writer.hpp"
#include "isologit/version.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using nlohmann::json;

class Info : public Workspace {};

TEST_F(Info, TellsTheHead) {
  const std::string model = usual_model();
  std::ofstream(model + "/config.json") << R"({"model_type": "gemma2", "tie_word_embeddings": false, "vocab_size": 47,
                                              "hidden_size": 8})";
  static_assert(kVocab == 50 && kHidden == 8);
  const Finished finished = run_command({"info", model, "--json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const json told = json::parse(finished.out);
  EXPECT_EQ(told["model"], model);
  EXPECT_EQ(told["directory"], model);
  EXPECT_EQ(told["tensor"], "lm_head.weight");
  EXPECT_EQ(told["file"], model + "/model.safetensors");
  EXPECT_EQ(told["dtype"], "f32");
  EXPECT_EQ(told["shape"], (json{kVocab, kHidden}));
  EXPECT_EQ(told["tied"], false);
  EXPECT_TRUE(told["bias"].is_null());
  EXPECT_EQ(told["vocab_size"], kVocab - 3);
  EXPECT_EQ(told["padded_rows"], 3);
  EXPECT_EQ(told["transforms"]["softcap"], 30.0);
  EXPECT_TRUE(told["transforms"]["scale"].is_null());
  EXPECT_EQ(told["memory"]["mapped_bytes"], 4 * kVocab * kHidden);
  EXPECT_GT(told["memory"]["working_bytes"], 0);
  EXPECT_EQ(told["takes_last_hidden_state"], true);

  const Finished table = run_command({"info", model});
  EXPECT_EQ(table.exit_code, 0);
  for (const char* part : {"lm_head.weight", "[50, 8]", "47, and 3 padded rows", "softcap 30", "1.60 kB of the file"}) {
    EXPECT_NE(table.out.find(part), std::string::npos) << part << " in\n" << table.out;
  }
}

TEST_F(Info, TellsATiedHead) {
  const std::string model = write_model("model", usual_weight(), kVocab, kHidden);
  const std::vector<float> embedding = usual_weight();
  const std::vector<detail::io::TensorToWrite> only = {
      {"model.embed_tokens.weight", "F32", {kVocab, kHidden}, std::as_bytes(std::span(embedding))}};
  write_tensors(model + "/model.safetensors", only);
  write_config("model", kVocab, kHidden);
  std::filesystem::remove(model + "/config.json");
  std::ofstream(model + "/config.json") << R"({"model_type": "qwen3", "tie_word_embeddings": true, "vocab_size": 50,
                                              "hidden_size": 8})";
  const json told = json::parse(run_command({"info", model, "--json"}).out);
  EXPECT_EQ(told["tensor"], "model.embed_tokens.weight");
  EXPECT_EQ(told["tied"], true);
}

TEST_F(Info, TellsAHeadThatIsGiven) {
  const std::string model = write_model("model", usual_weight(), kVocab, kHidden);
  std::ofstream(model + "/config.json") << R"({"model_type": "of my own", "output_multiplier_scale": 0.5})";
  const Finished unknown = run_command({"info", model});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_NE(unknown.err.find("model_type \"of my own\" is not known"), std::string::npos) << unknown.err;
  EXPECT_NE(unknown.err.find("--head TENSOR"), std::string::npos) << unknown.err;
  const std::vector<std::string> given = {"info", model, "--json", "--head", "lm_head.weight", "--vocab-size", "40"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), given.begin(), given.end());
    return run_command(more);
  };
  const json told = json::parse(with({"--softcap", "30", "--scale", "0.5"}).out);
  EXPECT_EQ(told["tensor"], "lm_head.weight");
  EXPECT_EQ(told["vocab_size"], 40);
  EXPECT_EQ(told["padded_rows"], kVocab - 40);
  EXPECT_EQ(told["transforms"]["softcap"], 30.0);
  EXPECT_EQ(told["transforms"]["scale"], 0.5);
  EXPECT_EQ(told["transforms"]["order"], "softcap_first");
  EXPECT_EQ(json::parse(with({"--divide", "4"}).out)["transforms"]["divisor"], 4.0);
  for (const char* none : {"softcap", "order"}) {
    EXPECT_TRUE(json::parse(with({"--assume-plain-head"}).out)["transforms"][none].is_null());
  }
}

// Of rank 8, a the identity and b minus the weight: all logits are 0.
TEST_F(Info, TellsTheAdapterThatScoreAdds) {
  const std::string model = usual_model();
  std::filesystem::create_directories(path("adapter"));
  std::ofstream(path("adapter/adapter_config.json")) << R"({"peft_type":"LORA","r":8,"lora_alpha":8,"bias":"none"})";
  std::vector<float> identity(kHidden * kHidden);
  for (std::size_t k = 0; k < kHidden; ++k) identity[k * (kHidden + 1)] = 1;
  std::vector<float> minus = usual_weight();
  for (float& w : minus) w = -w;
  const std::string name = "base_model.model.lm_head.lora_";
  write_tensors(path("adapter/adapter_model.safetensors"),
                {{name + "A.weight", "F32", {kHidden, kHidden}, std::as_bytes(std::span(identity))},
                 {name + "B.weight", "F32", {kVocab, kHidden}, std::as_bytes(std::span(minus))}});
  const json told = json::parse(run_command({"info", model, "--json", "--adapter", path("adapter")}).out);
  EXPECT_EQ(told["adapter"]["tensor"], name + "A.weight");
  EXPECT_EQ(told["adapter"]["rank"], 8);
  EXPECT_EQ(told["adapter"]["scale"], 1.0);
  EXPECT_FALSE(json::parse(run_command({"info", model, "--json"}).out).contains("adapter"));

  const std::string input = write_input("input", usual_input(), kHidden);
  const Finished scored =
      run_command({"score", model, "--input", input, "--output", path("out"), "--adapter", path("adapter")});
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  const auto lse = read_tensor<float>(path("out"), "lse", "F32");
  for (std::size_t row = 0; row < lse.size(); ++row) {
    const bool ignored = row == 4 || row == 17;
    EXPECT_EQ(lse[row], ignored ? 0.0F : 3.912023005428146F) << row;  // ln 50
  }
}

TEST_F(Info, RefusesHalfAHead) {
  const std::string model = write_model("model", usual_weight(), kVocab, kHidden);
  const auto refused = [&](const std::vector<std::string>& options, const std::string& why) {
    std::vector<std::string> line = {"info", model};
    line.insert(line.end(), options.begin(), options.end());
    const Finished finished = run_command(line);
    EXPECT_EQ(finished.exit_code, 2) << why;
    EXPECT_NE(finished.err.find(why), std::string::npos) << finished.err;
  };
  refused({"--head", "lm_head.weight"}, "--head: say what the model does to the logits");
  for (const char* option : {"--softcap", "--scale", "--divide", "--vocab-size"}) {
    refused({option, "2"}, std::string(option) + ": needs --head");
  }
  refused({"--assume-plain-head"}, "--assume-plain-head: needs --head");
  refused({"--head", "w", "--assume-plain-head", "--scale", "2"}, "--assume-plain-head: not with --scale");
  refused({"--head", "w", "--divide", "2", "--scale", "2"}, "--divide: not with --scale");
  refused({"--head", "w", "--softcap", "0"}, "--softcap: '0'; expected a finite number above 0");
  refused({"--head", "w", "--scale", "0"}, "--scale: '0'; expected a finite number other than 0");
  refused({"--head", "w", "--divide", "-2"}, "--divide: '-2'; expected a finite number above 0");
  refused({"--head", "w", "--scale", "1", "--vocab-size", "0"}, "--vocab-size");
}

TEST(Kernels, ListsThemBestFirst) {
  const Finished finished = run_command({"kernels", "--json"}, [] { ::unsetenv("ISOLOGIT_KERNEL"); });
  ASSERT_EQ(finished.exit_code, 0);
  const json told = json::parse(finished.out);
  ASSERT_GE(told["kernels"].size(), 2U);
  EXPECT_EQ(told["kernels"].back()["name"], "reference");
  std::map<std::string, json> chosen;
  for (const json& kernel : told["kernels"]) {
    EXPECT_EQ(kernel["runnable"].get<bool>(), kernel["why_not"].is_null());
    EXPECT_FALSE(kernel["dtypes"].empty());
    if (!kernel["chosen"].get<bool>()) continue;
    EXPECT_TRUE(chosen.emplace(kernel["arithmetic"], kernel["name"]).second);
    EXPECT_TRUE(kernel["runnable"].get<bool>());
  }
  EXPECT_EQ(chosen["exact"], told["chosen"]);
  EXPECT_EQ(chosen["fast"], told["chosen_fast"]);
  const Finished table = run_command({"kernels"});
  for (const json& kernel : told["kernels"]) {
    EXPECT_NE(table.out.find(kernel["name"].get<std::string>()), std::string::npos);
  }
}

TEST(Kernels, ObeysTheEnvironment) {
  const Finished forced = run_command({"kernels", "--json"}, [] { ::setenv("ISOLOGIT_KERNEL", "reference", 1); });
  EXPECT_EQ(json::parse(forced.out)["chosen"], "reference");
  const auto unknown = [] { ::setenv("ISOLOGIT_KERNEL", "abacus", 1); };
  EXPECT_TRUE(json::parse(run_command({"kernels", "--json"}, unknown).out)["chosen"].is_null());
  EXPECT_NE(run_command({"kernels"}, unknown).out.find("ISOLOGIT_KERNEL=abacus"), std::string::npos);
}

TEST(Help, TellsEveryOption) {
  const Finished all = run_command({"--help"});
  EXPECT_EQ(all.exit_code, 0);
  for (const char* verb : {"score", "sample", "info", "kernels", "bench"})
    EXPECT_NE(all.out.find(verb), std::string::npos) << verb;
  const Finished score = run_command({"score", "--help"});
  EXPECT_EQ(score.exit_code, 0);
  for (const char* part : {"MODEL", "--input FILE", "--output FILE", "--temperature T", "--threads N", "--kernel NAME",
                           "--rows A:B", "--json", "hidden_states", "mean_logprob", "Exit code"}) {
    EXPECT_NE(score.out.find(part), std::string::npos) << part;
  }
  const Finished version = run_command({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_EQ(version.out, "isologit " ISOLOGIT_VERSION "\n");
}

// Verbs of the Python package.
TEST_F(Info, HandsOverToPython) {
  const std::string python = path("python");
  std::ofstream(python) << "#!/bin/sh\nshift 2\necho \"$@\"\nexit 3\n";
  std::filesystem::permissions(python, std::filesystem::perms::owner_all);
  const auto with_python = [](const std::string& name) {
    return [name] { ::setenv("ISOLOGIT_PYTHON", name.c_str(), 1); };
  };
  const std::vector<std::vector<std::string>> handed = {{"audit", "m", "--rollouts", "f"},
                                                        {"capture", "f", "--", "python"},
                                                        {"integrations"},
                                                        {"verify", "--head", "a:b"},
                                                        {"verify", "--json", "--head=a:b"}};
  for (const auto& arguments : handed) {
    std::string line;
    for (const std::string& argument : arguments) line += (line.empty() ? "" : " ") + argument;
    const Finished finished = run_command(arguments, with_python(python));
    EXPECT_EQ(finished.exit_code, 3);
    EXPECT_EQ(finished.out, line + "\n");
  }
  EXPECT_EQ(run_command({"kernels"}, with_python(python)).exit_code, 0);
  const Finished none = run_command({"audit", "m"}, with_python("/nowhere/python"));
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_EQ(none.err,
            "isologit: audit is in the Python package, and '/nowhere/python' cannot be run: No such file or directory; "
            "expected a Python with it: pip install 'isologit[audit]', or name one by ISOLOGIT_PYTHON\n");
}

// A Python that has not the package says so itself.
TEST_F(Info, SaysWhatToInstallInPython) {
  const Finished finished = run_command({"audit", "m"}, [] {
    ::setenv("ISOLOGIT_PYTHON", "python3", 1);
    ::setenv("PYTHONNOUSERSITE", "1", 1);
  });
  if (finished.err.find("usage: isologit audit") != std::string::npos) GTEST_SKIP() << "python3 has isologit";
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_NE(finished.err.find("audit is in the Python package, which "), std::string::npos) << finished.err;
  EXPECT_NE(finished.err.find("pip install 'isologit[audit]'"), std::string::npos) << finished.err;
}

}  // namespace
}  // namespace isologit::test
