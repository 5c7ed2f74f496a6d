// A digest of results, so that two runs or two machines compare at a glance.
#pragma once

#include <span>
#include <string>

namespace isologit::cli {

// SHA-256 of the values as little-endian f32, in lower-case hexadecimal.
std::string f32_digest(std::span<const float> values);

}  // namespace isologit::cli
