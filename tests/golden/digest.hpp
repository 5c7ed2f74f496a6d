// The digest of what a call returned: FNV-1a of 128 bits (Fowler, Noll, Vo) over names, lengths and bits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "oracle/values.hpp"

namespace isologit::golden {

// One output, element by element as bits: 32 or 16 of a number, 64 of an id.
struct Output {
  std::string name;
  std::vector<std::uint64_t> bits;
  bool operator==(const Output&) const = default;
};
using Results = std::vector<Output>;

inline std::uint64_t bits_of(float x) { return oracle::bits_of(x); }
inline std::uint64_t bits_of(std::int64_t id) { return static_cast<std::uint64_t>(id); }

template <class T>
Output output(std::string name, const std::vector<T>& values) {
  Output made{std::move(name), {}};
  for (const T value : values) made.bits.push_back(bits_of(value));
  return made;
}

// What two digests differ by: "lse[3]: 40000000, expected 40000001", or nothing.
std::string first_difference(const Results& found, const Results& expected);

// In hexadecimal, as FNV's authors print it.
std::string fnv1a(std::string_view bytes);
std::string digest(const Results& results);

}  // namespace isologit::golden
