// Prints the digests that `isologit verify` compares with, from the oracle alone:
// verify_make > cli/verify_digests.inc
#include <cstdio>

#include "verify_by_oracle.hpp"

int main() {
  using namespace isologit::detail::cli;
  for (const Operation& operation : operations()) {
    for (const DataFamily family : kDataFamilies) {
      const std::string digest = digest_of(isologit::test::verify_by_oracle(operation.name, family));
      std::printf("{\"%s\", \"%s\", \"%s\"},\n", operation.name, name_of(family), digest.c_str());
    }
  }
}
