// Every kernel gives what the oracle gave when digests.txt was made, to the bit: whatever is moved, merged or made
// faster, no result changes.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "golden/results.hpp"

namespace isologit::golden {
namespace {

// The lines of digests.txt that begin with the verb's name: their digests by order.
std::vector<std::pair<std::string, std::string>> recorded(const std::string& verb) {
  std::ifstream file(ISOLOGIT_GOLDEN_DIGESTS);
  EXPECT_TRUE(file.good()) << ISOLOGIT_GOLDEN_DIGESTS;
  std::vector<std::pair<std::string, std::string>> lines;
  for (std::string digest, name; file >> digest && std::getline(file >> std::ws, name);) {
    if (name.starts_with(verb + " ")) lines.emplace_back(digest, name);
  }
  return lines;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  template <class Cases>
  void expect_recorded(const std::string& verb, const Cases& cases) const {
    const auto lines = recorded(verb);
    ASSERT_EQ(lines.size(), cases.size()) << "digests.txt is out of date: run golden_make";
    for (std::size_t i = 0; i < lines.size(); ++i) {
      ASSERT_EQ(lines[i].second, cases[i].name) << "digests.txt is out of date: run golden_make";
      const Results results = by_library(cases[i], GetParam());
      if (digest(results) == lines[i].first) continue;
      const std::string difference = first_difference(results, by_oracle(cases[i]));
      ADD_FAILURE() << cases[i].name << ": "
                    << (difference.empty() ? "the oracle agrees, but not the one that made digests.txt" : difference);
    }
  }
};

TEST_P(Golden, Score) { expect_recorded("score", score_cases()); }
TEST_P(Golden, Logits) { expect_recorded("logits", logits_cases()); }
TEST_P(Golden, Sample) { expect_recorded("sample", sample_cases()); }
TEST_P(Golden, ExactGradients) { expect_recorded("backward", backward_cases()); }

INSTANTIATE_TEST_SUITE_P(Kernel, Golden, testing::ValuesIn(test::runnable_kernels()),
                         [](const auto& tested) { return tested.param; });

template <class Cases>
void expect_oracles(const std::string& verb, const Cases& cases) {
  const auto lines = recorded(verb);
  ASSERT_EQ(lines.size(), cases.size());
  for (std::size_t i = 0; i < lines.size(); ++i)
    EXPECT_EQ(digest(by_oracle(cases[i])), lines[i].first) << lines[i].second;
}

TEST(GoldenDigests, AreTheOracles) {
  expect_oracles("score", score_cases());
  expect_oracles("logits", logits_cases());
  expect_oracles("sample", sample_cases());
  expect_oracles("backward", backward_cases());
}

// Of the authors' test suite.
TEST(GoldenDigests, AreFnv1a) {
  EXPECT_EQ(fnv1a(""), "6c62272e07bb014262b821756295c58d");
  EXPECT_EQ(fnv1a("a"), "d228cb696f1a8caf78912b704e4a8964");
  EXPECT_EQ(fnv1a("foobar"), "343e1662793c64bf6f0d3597ba446f18");
}

}  // namespace
}  // namespace isologit::golden
