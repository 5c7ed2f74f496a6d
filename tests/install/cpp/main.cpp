// A program of somebody else's, which knows isologit only as it is installed.
#include <isologit/isologit.h>

#include <cstdio>
#include <cstring>
#include <isologit/head.hpp>
#include <isologit/kernels.hpp>
#include <isologit/score.hpp>
#include <isologit/version.hpp>

int main() {
  std::printf("%s\n", isologit_version());
  return std::strcmp(isologit_version(), ISOLOGIT_VERSION) == 0 ? 0 : 1;
}
