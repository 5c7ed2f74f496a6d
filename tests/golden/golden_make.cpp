// Prints digests.txt, from the oracle alone: golden_make > tests/golden/digests.txt
#include <cstdio>

#include "golden/results.hpp"

namespace {

template <class Cases>
void print(const Cases& cases) {
  for (const auto& one : cases) {
    std::printf("%s %s\n", isologit::golden::digest(by_oracle(one)).c_str(), one.name.c_str());
  }
}

}  // namespace

int main() {
  print(isologit::golden::score_cases());
  print(isologit::golden::logits_cases());
  print(isologit::golden::sample_cases());
  print(isologit::golden::backward_cases());
}
