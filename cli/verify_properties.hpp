// What must hold of every kernel, whatever its arithmetic: a row's results do not depend on what is computed beside it,
// nor on how. Each property runs an operation in two ways and compares bits.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "cli/verify_results.hpp"

namespace isologit::detail::cli {

// An operation of a head; a test hands in one that is wrong.
struct HeadRun {
  std::string name;
  std::function<Result<Results>(const HeadCase&, const ScoreOptions&)> run;
};

struct Compared {
  std::int64_t elements = 0;  // that were compared
  Difference difference;
  void add(const std::string& what, const Results& found, const Results& expected);
};

// Of the rows of one case; what is not of its rows, as dweight, is left out.
struct Property {
  const char* name;
  const char* what;
  Result<void> (*compare)(const HeadRun& run, const HeadCase& one, const ScoreOptions& options, Compared& compared);
  bool of_library = false;  // calls the library beside the run, or looks at this thread's mode
};
std::span<const Property> properties();

// Of attention alone: tokens one by one, with the keys in pages, against all at once.
Result<void> compare_decode(const ForwardResults& at_once, const ForwardResults& by_token, const ScoreOptions& options,
                            Compared& compared);

}  // namespace isologit::detail::cli
