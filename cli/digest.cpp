#include "cli/digest.hpp"

#include <fmt/format.h>
#include <sha256.h>
#include <sys/types.h>  // sha256.h uses its names

#include <array>
#include <bit>
#include <cstdint>

namespace isologit::detail::cli {

struct Digest::State {
  SHA256_CTX context;
};

Digest::Digest() : state_(std::make_unique<State>()) { SHA256_Init(&state_->context); }
Digest::~Digest() = default;

void Digest::add(std::span<const std::byte> bytes) {
  SHA256_Update(&state_->context, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

std::string Digest::text() {
  std::array<std::uint8_t, SHA256_DIGEST_LENGTH> digest{};
  SHA256_Final(digest.data(), &state_->context);
  std::string text;
  for (std::uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string f32_digest(std::span<const float> values) {
  Digest digest;
  for (float value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    std::array<std::byte, 4> bytes{};
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(bits >> (8 * i) & 0xFFU);
    digest.add(bytes);
  }
  return digest.text();
}

}  // namespace isologit::detail::cli
