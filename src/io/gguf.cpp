#include "io/gguf.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "base/text.hpp"
#include "io/gguf_types.hpp"
#include "io/guard.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

constexpr std::uint32_t most_dimensions = 4;

enum class ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Of a value of the metadata; 0 for a string and an array.
std::size_t bytes_of(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean: return 1;
    case ValueType::u16:
    case ValueType::i16: return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32: return 4;
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64: return 8;
    case ValueType::string:
    case ValueType::array: break;
  }
  return 0;
}

class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& source) : file_(file), source_(source) {}

  Result<GgufContents> read() {
    std::uint64_t tensors = 0;
    std::uint64_t pairs = 0;
    if (auto done = read_start(tensors, pairs); !done) return tl::unexpected(done.error());
    for (std::uint64_t i = 0; i < pairs; ++i) {
      if (auto done = read_pair(); !done) return tl::unexpected(done.error());
    }
    if (auto done = read_alignment(); !done) return tl::unexpected(done.error());
    for (std::uint64_t i = 0; i < tensors; ++i) {
      if (auto done = read_tensor(); !done) return tl::unexpected(done.error());
    }
    if (auto done = place_tensors(); !done) return tl::unexpected(done.error());
    return std::move(contents_);
  }

 private:
  // What a tensor has besides, until it is known where the data begins.
  struct Place {
    std::uint64_t offset;
    std::optional<std::uint64_t> bytes;  // nothing for a type that is not known
  };

  template <class... Parts>
  tl::unexpected<Error> refuse(const Parts&... parts) const {
    return fail(StatusCode::invalid_argument, base::concat(base::in_quotes(source_), ": ", parts...));
  }
  tl::unexpected<Error> ends(const std::string& in) const {
    return refuse("the file ends in ", in, ", at byte ", file_.size(), "; it is truncated or damaged");
  }

  template <class T>
  Result<T> number(const std::string& in) {
    T value{};
    if (file_.size() - at_ < sizeof value) return ends(in);
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  Result<std::string_view> text(const std::string& in) {
    const auto length = number<std::uint64_t>(in);
    if (!length) return tl::unexpected(length.error());
    if (*length > file_.size() - at_) {
      return refuse(in, " has a text of ", *length, " bytes, but the file has ", file_.size() - at_, " more");
    }
    const std::string_view found(reinterpret_cast<const char*>(file_.data()) + at_, static_cast<std::size_t>(*length));
    at_ += found.size();
    return found;
  }

  Result<void> read_start(std::uint64_t& tensors, std::uint64_t& pairs) {
    if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) {
      return refuse("does not begin with the letters GGUF; is this a GGUF file?");
    }
    at_ = 4;
    const auto version = number<std::uint32_t>("the version");
    if (!version) return tl::unexpected(version.error());
    if ((*version & 0xFFFFU) == 0 && *version != 0) {
      return refuse("is of the other byte order; write it as little-endian");
    }
    if (*version != 2 && *version != 3) return refuse("GGUF version ", *version, ", expected 2 or 3");
    for (std::uint64_t* count : {&tensors, &pairs}) {
      const auto read = number<std::uint64_t>("the counts");
      if (!read) return tl::unexpected(read.error());
      *count = *read;
    }
    return {};
  }

  Result<void> read_pair() {
    const auto key = text("a key of the metadata");
    if (!key) return tl::unexpected(key.error());
    const std::string in = base::concat("the value of ", base::in_quotes(*key));
    const auto type = read_type(in);
    if (!type) return tl::unexpected(type.error());
    auto value = *type == ValueType::array ? read_array(in) : read_value(*type, in);
    if (!value) return tl::unexpected(value.error());
    if (!contents_.metadata.emplace(*key, std::move(*value)).second) {
      return refuse("the metadata has ", base::in_quotes(*key), " twice");
    }
    return {};
  }

  Result<ValueType> read_type(const std::string& in) {
    const auto type = number<std::uint32_t>(in);
    if (!type) return tl::unexpected(type.error());
    if (*type > static_cast<std::uint32_t>(ValueType::f64)) return refuse(in, " has the unknown type ", *type);
    return static_cast<ValueType>(*type);
  }

  Result<GgufValue> read_value(ValueType type, const std::string& in) {
    switch (type) {
      case ValueType::u8: return as<std::uint64_t>(number<std::uint8_t>(in));
      case ValueType::i8: return as<std::int64_t>(number<std::int8_t>(in));
      case ValueType::u16: return as<std::uint64_t>(number<std::uint16_t>(in));
      case ValueType::i16: return as<std::int64_t>(number<std::int16_t>(in));
      case ValueType::u32: return as<std::uint64_t>(number<std::uint32_t>(in));
      case ValueType::i32: return as<std::int64_t>(number<std::int32_t>(in));
      case ValueType::f32: return as<float>(number<float>(in));
      case ValueType::boolean: return as<bool>(number<std::uint8_t>(in));
      case ValueType::u64: return as<std::uint64_t>(number<std::uint64_t>(in));
      case ValueType::i64: return as<std::int64_t>(number<std::int64_t>(in));
      case ValueType::f64: return as<double>(number<double>(in));
      case ValueType::string: return as<std::string>(text(in));
      case ValueType::array: break;
    }
    return refuse(in, " is an array in an array, which no GGUF file has");
  }

  template <class T, class Read>
  static Result<GgufValue> as(const Result<Read>& read) {
    if (!read) return tl::unexpected(read.error());
    return GgufValue(static_cast<T>(*read));
  }

  Result<GgufValue> read_array(const std::string& in) {
    const auto type = read_type(in);
    if (!type) return tl::unexpected(type.error());
    const auto length = number<std::uint64_t>(in);
    if (!length) return tl::unexpected(length.error());
    if (const std::size_t each = bytes_of(*type); each > 0) {
      if (*length > (file_.size() - at_) / each) return ends(in);
      at_ += static_cast<std::size_t>(*length) * each;
    } else {
      for (std::uint64_t i = 0; i < *length; ++i) {
        if (auto element = read_value(*type, in); !element) return tl::unexpected(element.error());
      }
    }
    return GgufValue(GgufArray{*length});
  }

  Result<void> read_alignment() {
    const auto found = contents_.metadata.find("general.alignment");
    if (found == contents_.metadata.end()) return {};
    const auto* value = std::get_if<std::uint64_t>(&found->second);
    if (value == nullptr || *value == 0 || (*value & (*value - 1)) != 0 || *value > 1U << 30) {
      return refuse("general.alignment is ", describe(found->second), ", expected a power of two up to 2^30");
    }
    alignment_ = static_cast<std::size_t>(*value);
    return {};
  }

  Result<void> read_tensor() {
    const auto name = text("the name of a tensor");
    if (!name) return tl::unexpected(name.error());
    const std::string in = base::concat("tensor ", base::in_quotes(*name));
    if (!names_.emplace(*name).second) return refuse("there are two of ", in);
    Tensor tensor;
    tensor.name = *name;
    if (auto done = read_shape(in, tensor); !done) return done;
    const auto number_of_type = number<std::uint32_t>(in);
    if (!number_of_type) return tl::unexpected(number_of_type.error());
    const auto offset = number<std::uint64_t>(in);
    if (!offset) return tl::unexpected(offset.error());
    const std::optional<GgufType> type = gguf_type(*number_of_type);
    tensor.dtype = type ? std::string(type->name) : base::concat("of the unknown type ", *number_of_type);
    std::optional<std::uint64_t> bytes;
    if (type) {
      auto size = size_of(in, tensor, *type);
      if (!size) return tl::unexpected(size.error());
      bytes = *size;
    }
    if (*offset % alignment_ != 0) {
      return refuse(in, " is at ", *offset, ", expected a multiple of the alignment, ", alignment_);
    }
    contents_.tensors.push_back(std::move(tensor));
    places_.push_back({*offset, bytes});
    return {};
  }

  Result<void> read_shape(const std::string& in, Tensor& tensor) {
    const auto dimensions = number<std::uint32_t>(in);
    if (!dimensions) return tl::unexpected(dimensions.error());
    if (*dimensions > most_dimensions) {
      return refuse(in, " has ", *dimensions, " dimensions, expected at most ", most_dimensions);
    }
    for (std::uint32_t i = 0; i < *dimensions; ++i) {
      const auto dimension = number<std::int64_t>(in);
      if (!dimension) return tl::unexpected(dimension.error());
      if (*dimension < 0) return refuse(in, " has a dimension of 2^63 or more");
      tensor.shape.push_back(*dimension);
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    return {};
  }

  Result<std::uint64_t> size_of(const std::string& in, const Tensor& tensor, const GgufType& type) const {
    const std::optional<std::uint64_t> count = element_count(tensor.shape);
    const std::int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (row % type.elements != 0) {
      return refuse(in, " has rows of ", row, " elements, expected a multiple of ", type.elements, " of type ",
                    type.name);
    }
    std::uint64_t bytes = 0;
    if (!count || __builtin_mul_overflow(*count / type.elements, type.bytes, &bytes)) {
      return refuse(in, ": the product of shape ", base::shape_text(tensor.shape), " overflows");
    }
    return bytes;
  }

  // The data begins at a multiple of the alignment. Tensors lie inside of it, apart from one another.
  Result<void> place_tensors() {
    const std::size_t begin = std::min(file_.size(), (at_ + alignment_ - 1) / alignment_ * alignment_);
    const std::size_t size = file_.size() - begin;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      Tensor& tensor = contents_.tensors[i];
      const Place& place = places_[i];
      const std::uint64_t bytes = place.bytes.value_or(0);
      if (place.offset > size || bytes > size - place.offset) {
        return refuse("tensor ", base::in_quotes(tensor.name), " has ", bytes, " bytes at ", place.offset,
                      " of the data, of which the file holds ", size, "; it is truncated or damaged");
      }
      tensor.data = file_.data() + begin + place.offset;
      tensor.bytes = static_cast<std::size_t>(bytes);
    }
    std::sort(contents_.tensors.begin(), contents_.tensors.end(), [](const Tensor& a, const Tensor& b) {
      return std::tie(a.data, a.bytes, a.name) < std::tie(b.data, b.bytes, b.name);
    });
    const Tensor* previous = nullptr;
    for (const Tensor& tensor : contents_.tensors) {
      if (previous != nullptr && tensor.data < previous->data + previous->bytes && tensor.bytes > 0) {
        return refuse("tensors ", base::in_quotes(previous->name), " and ", base::in_quotes(tensor.name), " overlap");
      }
      if (tensor.bytes > 0) previous = &tensor;
    }
    return {};
  }

  std::span<const std::byte> file_;
  const std::string& source_;
  std::size_t at_ = 0;
  std::size_t alignment_ = 32;
  GgufContents contents_;
  std::vector<Place> places_;  // of contents_.tensors
  std::set<std::string_view> names_;
};

struct InWords {
  std::string operator()(std::uint64_t value) const { return base::concat(value); }
  std::string operator()(std::int64_t value) const { return base::concat(value); }
  std::string operator()(float value) const { return base::concat(value); }
  std::string operator()(double value) const { return base::concat(value, " in f64"); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const std::string& value) const { return base::in_quotes(value); }
  std::string operator()(GgufArray value) const { return base::concat("an array of ", value.length); }
};

}  // namespace

const Tensor* GgufContents::find(std::string_view name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& one) { return one.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

Result<GgufContents> parse_gguf(std::span<const std::byte> file, const std::string& source) {
  return guarded("reading a GGUF file", [&] { return Reader(file, source).read(); });
}

std::string describe(const GgufValue& value) { return std::visit(InWords{}, value); }

}  // namespace isologit::detail::io
