// What the results of `isologit verify` are on every machine. Made by the oracle of the tests, which shares no code
// with the library: verify_make > cli/verify_digests.inc
#include <string_view>

#include "cli/verify_results.hpp"

namespace isologit::detail::cli {
namespace {

struct Recorded {
  std::string_view operation, family, digest;
};
constexpr Recorded kRecorded[] = {
#include "cli/verify_digests.inc"
};

}  // namespace

std::string_view golden_digest(std::string_view operation, DataFamily family) {
  for (const Recorded& one : kRecorded) {
    if (one.operation == operation && one.family == name_of(family)) return one.digest;
  }
  return {};
}

}  // namespace isologit::detail::cli
