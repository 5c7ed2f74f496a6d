#include "io/safetensors.hpp"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/json.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

constexpr std::size_t length_bytes = 8;
// The bound that the format's reference implementation sets.
constexpr std::uint64_t max_header_bytes = 100'000'000;

std::uint64_t read_little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  return value;
}

// Messages about one file, all of them StatusCode::invalid_argument.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& source) : file_(file), source_(source) {}

  Result<SafetensorsContents> read() {
    auto header = read_header();
    if (!header) return tl::unexpected(header.error());
    SafetensorsContents contents;
    for (const JsonMember& member : *header->object()) {
      if (member.key == "__metadata__") {
        if (auto done = read_metadata(member.value, contents.metadata); !done) return tl::unexpected(done.error());
        continue;
      }
      auto tensor = read_tensor(member);
      if (!tensor) return tl::unexpected(tensor.error());
      contents.tensors.push_back(std::move(*tensor));
    }
    if (auto done = check_layout(contents.tensors); !done) return tl::unexpected(done.error());
    return contents;
  }

 private:
  template <class... Parts>
  tl::unexpected<Error> refuse(const Parts&... parts) const {
    return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(source_), ": ", parts...));
  }

  Result<JsonValue> read_header() {
    if (file_.size() < length_bytes) {
      return refuse("only ", file_.size(), " bytes long; a safetensors file begins with an 8-byte header length");
    }
    const std::uint64_t length = read_little_endian(file_.first(length_bytes));
    if (length > max_header_bytes) {
      return refuse("header length is ", length, " bytes, at most ", max_header_bytes,
                    " are allowed; is this a safetensors file?");
    }
    if (length > file_.size() - length_bytes) {
      return refuse("header length is ", length, " bytes, but only ", file_.size() - length_bytes,
                    " follow it; the file is truncated or damaged");
    }
    const auto header = file_.subspan(length_bytes, static_cast<std::size_t>(length));
    data_ = file_.subspan(length_bytes + header.size());
    if (header.empty() || header[0] != std::byte{'{'}) return refuse("the header is not a JSON object");
    return parse_json({reinterpret_cast<const char*>(header.data()), header.size()},
                      base::concat(base::in_quotes(source_), ": the header"));
  }

  Result<void> read_metadata(const JsonValue& value, std::map<std::string, std::string>& metadata) const {
    if (value.object() == nullptr) {
      return refuse("__metadata__ is ", describe(value), ", expected an object of strings");
    }
    for (const JsonMember& member : *value.object()) {
      if (member.value.string() == nullptr) {
        return refuse("__metadata__ ", base::in_quotes(member.key), " is ", describe(member.value),
                      ", expected a string");
      }
      metadata.emplace(member.key, *member.value.string());
    }
    return {};
  }

  Result<Tensor> read_tensor(const JsonMember& member) const {
    const std::string name = base::concat("tensor ", base::in_quotes(member.key));
    if (member.value.object() == nullptr) return refuse(name, " is ", describe(member.value), ", expected an object");
    for (const JsonMember& field : *member.value.object()) {
      if (field.key != "dtype" && field.key != "shape" && field.key != "data_offsets") {
        return refuse(name, " has an unknown field ", base::in_quotes(field.key));
      }
    }
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (member.value.find(field) == nullptr) return refuse(name, " has no field ", base::in_quotes(field));
    }
    Tensor tensor;
    tensor.name = member.key;
    const JsonValue& dtype = *member.value.find("dtype");
    if (dtype.string() == nullptr) return refuse(name, ": dtype is ", describe(dtype), ", expected a string");
    tensor.dtype = *dtype.string();
    if (auto done = read_shape(name, *member.value.find("shape"), tensor.shape); !done) {
      return tl::unexpected(done.error());
    }
    if (auto done = read_offsets(name, *member.value.find("data_offsets"), tensor); !done) {
      return tl::unexpected(done.error());
    }
    if (auto done = check_size(name, tensor); !done) return tl::unexpected(done.error());
    return tensor;
  }

  Result<void> read_shape(const std::string& name, const JsonValue& value, std::vector<std::int64_t>& shape) const {
    if (value.array() == nullptr) return refuse(name, ": shape is ", describe(value), ", expected an array");
    for (const JsonValue& dimension : *value.array()) {
      if (dimension.integer() == nullptr || *dimension.integer() < 0) {
        return refuse(name, ": shape contains ", describe(dimension),
                      ", expected integers of at least 0 and below 2^63");
      }
      shape.push_back(*dimension.integer());
    }
    return {};
  }

  Result<void> read_offsets(const std::string& name, const JsonValue& value, Tensor& tensor) const {
    const JsonValue::Array* pair = value.array();
    if (pair == nullptr || pair->size() != 2) {
      return refuse(name, ": data_offsets is ",
                    pair == nullptr ? describe(value) : base::concat("an array of ", pair->size()),
                    ", expected two integers");
    }
    std::uint64_t offsets[2];
    for (std::size_t i = 0; i < 2; ++i) {
      const std::int64_t* offset = (*pair)[i].integer();
      if (offset == nullptr || *offset < 0) {
        return refuse(name, ": data_offsets contains ", describe((*pair)[i]),
                      ", expected integers of at least 0 and below 2^63");
      }
      offsets[i] = static_cast<std::uint64_t>(*offset);
    }
    if (offsets[0] > offsets[1]) {
      return refuse(name, ": data_offsets begin at ", offsets[0], ", after their end at ", offsets[1]);
    }
    if (offsets[1] > data_.size()) {
      return refuse(name, ": data_offsets end at ", offsets[1], ", but the file holds ", data_.size(),
                    " bytes of data; it is truncated or damaged");
    }
    tensor.data = data_.data() + offsets[0];
    tensor.bytes = static_cast<std::size_t>(offsets[1] - offsets[0]);
    return {};
  }

  Result<void> check_size(const std::string& name, const Tensor& tensor) const {
    const std::optional<std::uint64_t> count = element_count(tensor.shape);
    if (!count) return refuse(name, ": the product of shape ", base::shape_text(tensor.shape), " overflows");
    const std::optional<unsigned> bits = safetensors_bits(tensor.dtype);
    if (!bits) return {};
    std::uint64_t total_bits = 0;
    if (__builtin_mul_overflow(*count, *bits, &total_bits) || total_bits % 8 != 0 || total_bits / 8 != tensor.bytes) {
      return refuse(name, ": ", tensor.bytes, " bytes of data do not match dtype ", tensor.dtype, " and shape ",
                    base::shape_text(tensor.shape));
    }
    return {};
  }

  // Sorts the tensors by their data, which must follow one another without overlap or gap up to the end of the file.
  Result<void> check_layout(std::vector<Tensor>& tensors) const {
    std::sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
      return std::tie(a.data, a.bytes, a.name) < std::tie(b.data, b.bytes, b.name);
    });
    const std::byte* next = data_.data();
    const Tensor* previous = nullptr;
    for (const Tensor& tensor : tensors) {
      if (tensor.data < next) {
        return refuse("tensors ", base::in_quotes(previous->name), " and ", base::in_quotes(tensor.name), " overlap");
      }
      if (tensor.data > next) {
        return refuse(tensor.data - next, " bytes before tensor ", base::in_quotes(tensor.name),
                      " belong to no tensor; the format allows no gaps");
      }
      next = tensor.data + tensor.bytes;
      previous = &tensor;
    }
    const std::ptrdiff_t rest = data_.data() + data_.size() - next;
    if (rest != 0) return refuse(rest, " bytes at the end belong to no tensor; the format allows no gaps");
    return {};
  }

  std::span<const std::byte> file_;
  const std::string& source_;
  std::span<const std::byte> data_;
};

}  // namespace

Result<SafetensorsContents> parse_safetensors(std::span<const std::byte> file, const std::string& source) {
  return guarded("reading a safetensors header", [&] { return Reader(file, source).read(); });
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  return guarded("opening a safetensors file", [&]() -> Result<SafetensorsFile> {
    auto file = MappedFile::open(path);
    if (!file) return tl::unexpected(file.error());
    auto contents = parse_safetensors(file->bytes(), path);
    if (!contents) return tl::unexpected(contents.error());
    return SafetensorsFile(path, std::move(*file), std::move(*contents));
  });
}

SafetensorsFile::SafetensorsFile(std::string path, MappedFile file, SafetensorsContents contents)
    : path_(std::move(path)), file_(std::move(file)), contents_(std::move(contents)) {
  for (std::size_t i = 0; i < contents_.tensors.size(); ++i) by_name_.emplace(contents_.tensors[i].name, i);
}

const Tensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &contents_.tensors[found->second];
}

}  // namespace isologit::detail::io
