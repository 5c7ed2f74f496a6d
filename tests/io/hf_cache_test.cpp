#include "io/hf_cache.hpp"

#include <map>
#include <optional>

#include "support.hpp"

namespace isologit::detail::io {
namespace {

class HfCache : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "HOME"}) {
      const char* value = ::getenv(name);
      saved_[name] = value == nullptr ? std::nullopt : std::optional<std::string>(value);
      ::unsetenv(name);
    }
  }
  void TearDown() override {
    for (const auto& [name, value] : saved_) {
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
    }
  }

  // A snapshot of a model with one file, under a hub directory; returns the snapshot's path.
  std::string add_model(const std::string& hub, const std::string& folder, const std::string& commit = "0123abcd") {
    dir_.write(hub + "/" + folder + "/refs/main", commit);
    const std::string snapshot = hub + "/" + folder + "/snapshots/0123abcd";
    dir_.write(snapshot + "/config.json", "{}");
    return dir_.path(snapshot);
  }

  TempDir dir_;

 private:
  std::map<std::string, std::optional<std::string>> saved_;
};

TEST_F(HfCache, LocalDirectory) {
  const auto found = find_model(dir_.path());
  ASSERT_TRUE(found);
  EXPECT_EQ(*found, dir_.path());
}

TEST_F(HfCache, EnvironmentInItsOrder) {
  const std::string by_home = add_model(".cache/huggingface/hub", "models--org--name");
  const std::string by_hf_home = add_model("hf/hub", "models--org--name");
  const std::string by_hub_cache = add_model("cache", "models--org--name");
  ::setenv("HOME", dir_.path().c_str(), 1);
  EXPECT_EQ(*find_model("org/name"), by_home);
  ::setenv("HF_HOME", dir_.path("hf").c_str(), 1);
  EXPECT_EQ(*find_model("org/name"), by_hf_home);
  ::setenv("HF_HUB_CACHE", dir_.path("cache").c_str(), 1);
  EXPECT_EQ(*find_model("org/name"), by_hub_cache);
}

TEST_F(HfCache, IdWithoutOrganisationAndTrailingNewline) {
  const std::string snapshot = add_model("cache", "models--gpt2-x.1", "0123abcd\n");
  ::setenv("HF_HUB_CACHE", dir_.path("cache").c_str(), 1);
  EXPECT_EQ(*find_model("gpt2-x.1"), snapshot);
}

TEST_F(HfCache, MissingModelNamesTheDownload) {
  ::setenv("HF_HUB_CACHE", dir_.path("cache").c_str(), 1);
  EXPECT_FAILS(find_model("org/name"), StatusCode::not_found, "\"org/name\"", dir_.path("cache"),
               "hf download org/name");
}

TEST_F(HfCache, RefThatLeadsNowhere) {
  ::setenv("HF_HUB_CACHE", dir_.path("cache").c_str(), 1);
  for (const char* commit : {"ffff", "", "../../../..", "/", "0123abcd/..", "0123abcd 0123abcd"}) {
    add_model("cache", "models--org--name", commit);
    EXPECT_FAILS(find_model("org/name"), StatusCode::not_found, "hf download org/name") << commit;
  }
}

TEST_F(HfCache, ThingsThatAreNoModel) {
  EXPECT_FAILS(find_model(dir_.write("file", "x")), StatusCode::invalid_argument, dir_.path("file"), "is a file");
  for (const char* model : {"", "a/b/c", "/nowhere/at/all", "./a", "../a", "a/..", "a/", "/a", "a//b", "a b", "-a",
                            "a/-b", "a--b", "org/na;me"}) {
    EXPECT_FAILS(find_model(model), StatusCode::not_found, "not a model id") << model;
  }
}

}  // namespace
}  // namespace isologit::detail::io
