// What `isologit verify` has a kernel compute: each operation on the data of a family, its results as bits.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/verify_data.hpp"
#include "isologit/score.hpp"

namespace isologit::detail::cli {

// One output, element by element: the bits of a number, or an id. Of rows where per_row is not 0.
struct Bits {
  std::string name;
  std::int64_t per_row = 0;
  std::vector<std::uint64_t> values;
  std::size_t bytes = 4;  // of an element, for what is shown
  bool operator==(const Bits&) const = default;
};
using Results = std::vector<Bits>;

template <class T>
Bits bits_of_elements(std::string name, std::int64_t per_row, const std::vector<T>& values) {
  Bits made{std::move(name), per_row, {}, sizeof(T)};
  made.values.reserve(values.size());
  for (const T value : values) {
    if constexpr (sizeof(T) == 4) {
      made.values.push_back(std::bit_cast<std::uint32_t>(value));
    } else {
      made.values.push_back(static_cast<std::uint64_t>(value));
    }
  }
  return made;
}

// Elements of 2 or 4 bytes.
Bits bits_of_bytes(std::string name, std::int64_t per_row, DType dtype, const std::vector<std::uint8_t>& bytes);

inline constexpr std::size_t kDigestLength = 32;  // of the hexadecimal digits of SHA-256

// SHA-256 over names, lengths and bits: its first digits.
std::string digest_of(const Results& results);

// How results differ: how many elements, and the first one in words.
struct Difference {
  std::int64_t elements = 0;
  std::string first;  // "lse[3]: 0x40000000, expected 0x40000001"
};
Difference difference(const Results& found, const Results& expected);
std::int64_t count_of(const Results& results);

// What the verbs of a head run on: more rows than a tile of AMX has, three tiles of the vocabulary, the last one short,
// and columns no multiple of any vector's length; where a result costs a sum over many, less.
inline constexpr HeadShape kHeadShape = {18, 150, 70}, kSmallShape = {5, 70, 33};
inline constexpr std::int64_t kTopK = 5;

// Results of a head or of operators of the forward pass; `options` names the kernel, threads and arithmetic.
struct ForwardCase;
using HeadResults = std::function<Result<Results>(const HeadCase&, const ScoreOptions&)>;
using ForwardResults = std::function<Result<Results>(const ForwardCase&, const ScoreOptions&)>;

Result<Results> score_results(const HeadCase& one, const ScoreOptions& options);
// The same by make(request), which fills what the request points to.
Result<Results> score_results_by(const HeadCase& one, const std::function<Result<void>(const ScoreRequest&)>& make);

// One of the two is there.
struct Operation {
  const char* name;
  HeadShape shape;  // of a head
  HeadResults head;
  ForwardResults forward;
};
// What the library has.
std::span<const Operation> operations();

// On data of the family in all types.
Result<Results> results_of(const Operation& operation, DataFamily family, const ScoreOptions& options);

// What the oracle of the tests gave for it.
std::string_view golden_digest(std::string_view operation, DataFamily family);

}  // namespace isologit::detail::cli
