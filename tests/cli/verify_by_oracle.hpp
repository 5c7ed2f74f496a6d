// What the operations of `isologit verify` must give, by the oracle.
#pragma once

#include <string_view>

#include "cli/verify_results.hpp"

namespace isologit::test {

detail::cli::Results verify_by_oracle(std::string_view operation, detail::cli::DataFamily family);

}  // namespace isologit::test
