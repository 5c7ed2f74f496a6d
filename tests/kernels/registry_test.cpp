// One line of the registry enrols a target everywhere.
#include "kernels/registry.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "isologit/kernels.hpp"

namespace isologit::detail::kernels {
namespace {

std::string page() {
  std::ifstream file(ISOLOGIT_SOURCE "/docs/kernels.md");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Registry, EveryTargetIsListedDocumentedAndNamedOnce) {
  const std::string text = page();
  std::set<std::string> names;
  const std::vector<KernelInfo> listed = isologit::kernels();
  ASSERT_EQ(listed.size(), registry().size());
  for (std::size_t i = 0; i < listed.size(); ++i) {
    const Entry& entry = registry()[i];
    EXPECT_EQ(listed[i].name, entry.name);
    EXPECT_TRUE(names.emplace(entry.name).second) << entry.name << " stands in the registry twice";
    EXPECT_NE(text.find("`" + std::string(entry.name) + "`"), std::string::npos)
        << entry.name << " is not in the tables of docs/kernels.md";
  }
  EXPECT_EQ(registry().back().name, "reference");
}

TEST(Registry, WhatRunsHereHoldsWhatItsLineSays) {
  for (const Entry& entry : registry()) {
    if (!entry.why_not().empty()) continue;
    const Target& target = entry.target();
    EXPECT_EQ(target.name(), entry.name);
    EXPECT_EQ(target.arithmetic(), entry.arithmetic);
    EXPECT_EQ(target.tile_vocab(), entry.shape.tile_vocab);
    EXPECT_EQ(target.backward_loops() == nullptr, entry.name == "reference");
  }
}

TEST(Registry, ATargetThatDoesNotRunSaysWhy) {
  for (const KernelInfo& kernel : isologit::kernels()) EXPECT_EQ(kernel.runnable, kernel.why_not.empty());
}

}  // namespace
}  // namespace isologit::detail::kernels
