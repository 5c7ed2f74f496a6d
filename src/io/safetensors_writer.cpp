#include "io/safetensors_writer.hpp"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/json.hpp"
#include "io/new_file.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

// What the header says of a tensor.
struct Entry {
  std::string_view name;
  std::string_view dtype;
  std::span<const std::int64_t> shape;
  std::uint64_t bytes;
};

// The bytes of a tensor of this dtype and shape.
Result<std::uint64_t> bytes_of(std::string_view name, std::string_view dtype, std::span<const std::int64_t> shape) {
  const std::string tensor = base::concat("tensor ", base::in_quotes(name));
  if (name == "__metadata__") {
    return fail(StatusCode::invalid_argument, tensor + ": this name is reserved by the format");
  }
  const std::optional<unsigned> bits = safetensors_bits(dtype);
  if (!bits) {
    return fail(StatusCode::invalid_argument, base::concat(tensor, ": unknown dtype ", base::in_quotes(dtype)));
  }
  const std::optional<std::uint64_t> count = element_count(shape);
  std::uint64_t total_bits = 0;
  if (!count || __builtin_mul_overflow(*count, *bits, &total_bits) || total_bits % 8 != 0) {
    return fail(StatusCode::invalid_argument,
                base::concat(tensor, ": dtype ", dtype, " and shape ", base::shape_text(shape),
                             " do not match any number of bytes"));
  }
  return total_bits / 8;
}

Result<std::string> make_header(std::span<const Entry> entries) {
  std::string header = "{";
  std::uint64_t offset = 0;
  for (const Entry& entry : entries) {
    auto name = json_string(entry.name);
    if (!name) return tl::unexpected(name.error());
    const std::uint64_t end = offset + entry.bytes;
    header += base::concat(header.size() > 1 ? "," : "", *name, R"(:{"dtype":")", entry.dtype, R"(","shape":[)",
                           base::join(entry.shape, ","), R"(],"data_offsets":[)", offset, ",", end, "]}");
    offset = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (unsigned shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(value >> shift & 0xFFU);
  return bytes;
}

// Writes all that precedes the data.
Result<void> write_header(NewFile& file, std::span<const Entry> entries) {
  auto header = make_header(entries);
  if (!header) return tl::unexpected(header.error());
  const std::string prefix = little_endian(header->size()) + *header;
  return file.write(std::as_bytes(std::span(prefix)));
}

}  // namespace

Result<void> write_safetensors(NewFile& file, std::span<const TensorToWrite> tensors) {
  return guarded("writing a safetensors file", [&]() -> Result<void> {
    std::vector<const TensorToWrite*> ordered;
    for (const TensorToWrite& tensor : tensors) {
      const auto bytes = bytes_of(tensor.name, tensor.dtype, tensor.shape);
      if (!bytes) return tl::unexpected(bytes.error());
      if (*bytes != tensor.data.size()) {
        return fail(StatusCode::invalid_argument,
                    base::concat("tensor ", base::in_quotes(tensor.name), ": ", tensor.data.size(),
                                 " bytes of data do not match dtype ", tensor.dtype, " and shape ",
                                 base::shape_text(tensor.shape)));
      }
      ordered.push_back(&tensor);
    }
    const auto order = [](const TensorToWrite* tensor) {
      return std::tuple(-static_cast<int>(*safetensors_bits(tensor->dtype)), std::string_view(tensor->name));
    };
    std::sort(ordered.begin(), ordered.end(), [&](const auto* a, const auto* b) { return order(a) < order(b); });
    std::vector<std::string_view> names;
    for (const TensorToWrite& tensor : tensors) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
      return fail(StatusCode::invalid_argument, base::concat("tensor ", base::in_quotes(*twice), " is given twice"));
    }
    std::vector<Entry> entries;
    entries.reserve(ordered.size());
    for (const TensorToWrite* tensor : ordered) {
      entries.push_back({tensor->name, tensor->dtype, tensor->shape, tensor->data.size()});
    }
    if (auto done = write_header(file, entries); !done) return done;
    for (const TensorToWrite* tensor : ordered) {
      if (auto done = file.write(tensor->data); !done) return done;
    }
    return {};
  });
}

Result<TensorStream> TensorStream::begin(NewFile& file, const std::string& name, const std::string& dtype,
                                         const std::vector<std::int64_t>& shape) {
  return guarded("writing a safetensors file", [&]() -> Result<TensorStream> {
    const auto bytes = bytes_of(name, dtype, shape);
    if (!bytes) return tl::unexpected(bytes.error());
    const Entry entry{name, dtype, shape, *bytes};
    if (auto done = write_header(file, {&entry, 1}); !done) return tl::unexpected(done.error());
    return TensorStream(file, *bytes);
  });
}

Result<void> TensorStream::append(std::span<const std::byte> data) {
  if (data.size() > missing_) {
    return fail(StatusCode::invalid_argument,
                base::concat("append: ", data.size(), " bytes for a tensor that lacks ", missing_));
  }
  missing_ -= data.size();
  return file_->write(data);
}

Result<void> TensorStream::finish() const {
  if (missing_ != 0) {
    return fail(StatusCode::invalid_argument, base::concat("finish: the tensor still lacks ", missing_, " bytes"));
  }
  return {};
}

}  // namespace isologit::detail::io
