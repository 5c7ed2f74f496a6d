// isologit verify: its digests are the oracle's, and it sees what is wrong.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfenv>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/verify_properties.hpp"
#include "isologit/kernels.hpp"
#include "process.hpp"
#include "verify_by_oracle.hpp"

namespace isologit::test {
namespace {

using namespace detail::cli;
using nlohmann::json;

class VerifyDigests : public testing::TestWithParam<std::string> {};

TEST_P(VerifyDigests, AreTheOracles) {
  for (const DataFamily family : kDataFamilies) {
    const Results right = verify_by_oracle(GetParam(), family);
    ASSERT_GT(count_of(right), 0);
    EXPECT_EQ(digest_of(right), golden_digest(GetParam(), family)) << name_of(family) << ": run verify_make";
  }
}

std::vector<std::string> operation_names() {
  std::vector<std::string> names;
  for (const Operation& operation : operations()) names.emplace_back(operation.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Operation, VerifyDigests, testing::ValuesIn(operation_names()), [](const auto& tested) {
  std::string name = tested.param;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
});

TEST(Verify, EveryKernelIsRight) {
  const Finished finished = run_command({"verify", "--all", "--json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  EXPECT_EQ(finished.err, "");
  const json told = json::parse(finished.out);
  EXPECT_EQ(told["right"], true);
  std::set<std::string> verified;
  for (const json& one : told["operations"]) {
    EXPECT_EQ(one["wrong"], 0);
    EXPECT_GT(one["values"], 0);
    verified.insert(one["kernel"]);
  }
  for (const KernelInfo& kernel : kernels()) {
    EXPECT_EQ(verified.contains(kernel.name), kernel.runnable && kernel.arithmetic == Arithmetic::exact) << kernel.name;
  }
  // Of every family, and the same whichever kernel is asked.
  const Finished other = run_command({"verify", "--kernel", "portable", "--json"});
  ASSERT_EQ(other.exit_code, 0) << other.out << other.err;
  EXPECT_EQ(json::parse(other.out)["digests"], told["digests"]);
  EXPECT_EQ(told["digests"].size(), std::size(kDataFamilies));
}

TEST(Verify, RefusesWhatItCannotDo) {
  const Finished unknown = run_command({"verify", "--kernel", "fastest"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.err.find("'fastest' is unknown; known are"), std::string::npos) << unknown.err;
  EXPECT_EQ(run_command({"verify", "--kernel", "portable", "--all"}).exit_code, 2);
}

TEST(Verify, IsInterrupted) {
  const Finished finished = interrupt_command({"verify", "--all"}, "verifying");
  EXPECT_EQ(finished.exit_code, 130) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_TRUE(finished.err.ends_with("\r\x1b[Kisologit: interrupted; nothing was written\r\n")) << finished.err;
}

TEST(Verify, TellsTheFirstDifference) {
  const Results right = {{"lse", 1, {1, 2, 3}}, {"logits", 2, {4, 5, 6, 7}}};
  Results wrong = right;
  EXPECT_EQ(difference(wrong, right).elements, 0);
  wrong[1].values[3] = 0x40000000;
  wrong[1].values[2] = 0;
  const Difference told = difference(wrong, right);
  EXPECT_EQ(told.elements, 2);
  EXPECT_EQ(told.first, "logits[1, 0]: 0x00000000, expected 0x00000006");
  EXPECT_NE(digest_of(wrong), digest_of(right));
}

// Runs that are wrong, each in the way that one property is about.
struct Mutant {
  std::string property;
  HeadRun run;
};

std::vector<Mutant> mutants() {
  const auto raise = [](Results& results) { ++results[0].values.back(); };
  const auto scores = [raise](auto when) {
    return HeadRun{"score", [=](const HeadCase& one, const ScoreOptions& options) {
                     Result<Results> results = score_results(one, options);
                     if (when(one, options)) raise(*results);
                     return results;
                   }};
  };
  const auto has_nan = [](const HeadCase& one) {
    for (std::size_t i = 1; i < one.hidden.bytes.size(); i += 2) {
      if ((one.hidden.bytes[i] & 0x7F) == 0x7F && (one.hidden.bytes[i - 1] & 0x80) != 0) return true;
    }
    return false;
  };
  // The last row's first output, raised by one, where ...
  return {
      {"slices", scores([](const HeadCase& one, const ScoreOptions&) { return one.rows() < 4; })},
      {"order", scores([](const HeadCase& one, const ScoreOptions&) { return one.token_ids[0] == -100; })},
      {"neighbours", scores([=](const HeadCase& one, const ScoreOptions&) { return has_nan(one); })},
      {"threads", scores([](const HeadCase&, const ScoreOptions& options) { return options.threads == 3; })},
      {"rounding mode", scores([](const HeadCase&, const ScoreOptions&) { return std::fegetround() == FE_DOWNWARD; })},
      {"shards", scores([](const HeadCase&, const ScoreOptions&) { return true; })},
  };
}

TEST(VerifyProperties, SeeWhatIsWrong) {
  const std::vector<Mutant> all = mutants();
  ASSERT_EQ(all.size(), properties().size());
  for (const Property& property : properties()) {
    const HeadCase one = make_head_case(DataFamily::normal, DType::bf16, {17, 40, 12});
    for (const Mutant& mutant : all) {
      if (mutant.property != property.name) continue;
      Compared compared;
      ASSERT_TRUE(property.compare({"score", score_results}, one, {}, compared));
      EXPECT_EQ(compared.difference.elements, 0) << property.name << ": " << compared.difference.first;
      EXPECT_GT(compared.elements, 0);
      ASSERT_TRUE(property.compare(mutant.run, one, {}, compared));
      EXPECT_GT(compared.difference.elements, 0) << property.name;
    }
  }
}

}  // namespace
}  // namespace isologit::test
