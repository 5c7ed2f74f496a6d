// What each family must give, by the oracle, and what a kernel of the library gives.
#pragma once

#include <string>

#include "golden/cases.hpp"
#include "golden/digest.hpp"

namespace isologit::golden {

Results by_oracle(const ScoreCase& one);
Results by_oracle(const LogitsCase& one);
Results by_oracle(const SampleCase& one);
Results by_oracle(const BackwardCase& one);

// An error fails the test.
Results by_library(const ScoreCase& one, const std::string& kernel);
Results by_library(const LogitsCase& one, const std::string& kernel);
Results by_library(const SampleCase& one, const std::string& kernel);
Results by_library(const BackwardCase& one, const std::string& kernel);

}  // namespace isologit::golden
