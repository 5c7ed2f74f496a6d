#include "cli/digest.hpp"

#include <fmt/format.h>
#include <sha256.h>
#include <sys/types.h>  // sha256.h uses its names

#include <array>
#include <bit>
#include <cstdint>

namespace isologit::cli {

std::string f32_digest(std::span<const float> values) {
  SHA256_CTX context;
  SHA256_Init(&context);
  for (float value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    std::array<std::uint8_t, 4> bytes{};
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::uint8_t>(bits >> (8 * i) & 0xFFU);
    SHA256_Update(&context, bytes.data(), bytes.size());
  }
  std::array<std::uint8_t, SHA256_DIGEST_LENGTH> digest{};
  SHA256_Final(digest.data(), &context);
  std::string text;
  for (std::uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace isologit::cli
