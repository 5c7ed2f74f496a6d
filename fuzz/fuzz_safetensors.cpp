// Any bytes at all as a safetensors file: either an error with a message, or tensors that lie inside the bytes, one
// after another.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  const auto contents = isologit::detail::io::parse_safetensors(file, "fuzz");
  if (!contents) {
    if (contents.error().message.empty()) std::abort();
    return 0;
  }
  const std::byte* end = file.data() + file.size();
  const std::byte* next = nullptr;
  for (const isologit::detail::io::Tensor& tensor : contents->tensors) {
    if (tensor.data < file.data() + 8 || tensor.data > end) std::abort();
    if (tensor.bytes > static_cast<std::size_t>(end - tensor.data)) std::abort();
    if (next != nullptr && tensor.data != next) std::abort();
    next = tensor.data + tensor.bytes;
  }
  if (next != nullptr && next != end) std::abort();
  return 0;
}
