// A digest of results, so that two runs or two machines compare at a glance.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace isologit::detail::cli {

// SHA-256 of bytes that come in parts.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(std::span<const std::byte> bytes);
  // In lower-case hexadecimal; nothing can be added after it.
  std::string text();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// SHA-256 of the values as little-endian f32, in lower-case hexadecimal.
std::string f32_digest(std::span<const float> values);

}  // namespace isologit::detail::cli
