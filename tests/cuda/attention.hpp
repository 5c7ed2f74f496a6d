// Problems of attention as a GPU has them in memory, its kernels on the host, and what the oracle says.
#pragma once

#include <vector>

#include "activations.hpp"
#include "forward/attention_batch.hpp"

namespace isologit::detail::cuda {

using test::count_of;
using test::starts_of;

struct Problem : test::AttentionBatch {
  int splits = 0;        // 0: as planned
  bool aligned = false;  // keys and values, for copies of 16 bytes
};

struct Operands {
  Laid q, k, v;
};
Operands random_operands(const Problem& p, Family family, std::uint64_t seed);

// The request of these operands, with lists that `Lists` keeps.
struct Lists {
  std::vector<std::int64_t> query_starts, first_keys;
};
isologit_cuda_attention_request request_of(const Problem& p, const Operands& operands, Lists& lists, const Laid& y);
// Makes it with so many splits.
Status make(isologit_cuda_attention_request request, int splits);

struct Attended {
  Laid y;
  Status status;
};
Attended attend(const Problem& p, const Operands& operands);

// Every `each`-th element has the oracle's bits, but for those that are left open, which are NaN; these are counted.
// Returns how many.
std::uint32_t check(const Problem& p, const Operands& operands, const std::string& what, std::int64_t each = 1);

// All elements have the bits of the library on the CPU, and none is left open.
void check_by_library(const Problem& p, const Operands& operands, const std::string& what);

}  // namespace isologit::detail::cuda
