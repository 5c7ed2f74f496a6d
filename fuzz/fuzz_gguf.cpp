// Any bytes at all as a GGUF file: either an error with a message, or tensors that lie inside the bytes, apart from one
// another, and a head that keeps the promises of its type.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/gguf_head.hpp"

namespace {

using namespace isologit::detail::io;

void check_tensors(const GgufContents& contents, std::span<const std::byte> file) {
  const std::byte* end = file.data() + file.size();
  const std::byte* next = file.data();
  for (const Tensor& tensor : contents.tensors) {
    if (tensor.data < file.data() || tensor.data > end) std::abort();
    if (tensor.bytes > static_cast<std::size_t>(end - tensor.data)) std::abort();
    if (tensor.bytes == 0) continue;
    if (tensor.data < next) std::abort();
    next = tensor.data + tensor.bytes;
  }
}

void check_head(const GgufContents& contents) {
  const auto head = find_gguf_head(contents, "fuzz", nullptr);
  if (!head) {
    if (head.error().message.empty()) std::abort();
    return;
  }
  const std::vector<std::int64_t>& shape = head->weight->shape;
  if (shape.size() != 2 || shape[1] < 1 || head->vocab_size < 1 || head->vocab_size > shape[0]) std::abort();
  const isologit::Transforms& transforms = head->transforms;
  if (transforms.has_softcap && !(std::isfinite(transforms.softcap) && transforms.softcap > 0.0F)) std::abort();
  if (!std::isfinite(transforms.scale) || transforms.scale == 0.0F) std::abort();
  if (transforms.scale_kind == isologit::ScaleKind::divide && transforms.scale < 0.0F) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  const auto contents = parse_gguf(file, "fuzz");
  if (!contents) {
    if (contents.error().message.empty()) std::abort();
    return 0;
  }
  check_tensors(*contents, file);
  check_head(*contents);
  return 0;
}
