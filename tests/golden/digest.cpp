#include "golden/digest.hpp"

#include <cstdio>

namespace isologit::golden {

std::string first_difference(const Results& found, const Results& expected) {
  if (found.size() != expected.size()) return "other outputs";
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Output& a = found[i];
    const Output& b = expected[i];
    if (a.name != b.name || a.bits.size() != b.bits.size()) return a.name + " is not like " + b.name;
    for (std::size_t j = 0; j < a.bits.size(); ++j) {
      if (a.bits[j] == b.bits[j]) continue;
      char text[120];
      std::snprintf(text, sizeof text, "[%zu]: %llx, expected %llx", j, static_cast<unsigned long long>(a.bits[j]),
                    static_cast<unsigned long long>(b.bits[j]));
      return a.name + text;
    }
  }
  return {};
}

std::string fnv1a(std::string_view bytes) {
  __extension__ using Word = unsigned __int128;
  const Word prime = (Word{1} << 88) + 0x13B;
  Word hash = (Word{0x6C62272E07BB0142U} << 64) + 0x62B821756295C58DU;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * prime;
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash >> 64),
                static_cast<unsigned long long>(hash));
  return text;
}

std::string digest(const Results& results) {
  std::string bytes;
  const auto append = [&](std::uint64_t word) {
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(word >> (8 * i)));
  };
  for (const Output& one : results) {
    bytes += one.name;
    append(one.bits.size());
    for (const std::uint64_t bits : one.bits) append(bits);
  }
  return fnv1a(bytes);
}

}  // namespace isologit::golden
