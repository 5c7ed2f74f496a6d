#include "io/captured.hpp"

#include <cstring>
#include <optional>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::detail::io {
namespace {

class CapturedReader {
 public:
  explicit CapturedReader(const SafetensorsFile& file) : file_(file) {}

  Result<MatrixView> hidden() const {
    const Tensor* tensor = file_.find("hidden_states");
    if (tensor == nullptr) return missing("hidden_states", "[T, H] in BF16, F16 or F32");
    const std::optional<DType> dtype = core_dtype(tensor->dtype);
    if (!dtype) return wrong_dtype(*tensor, "BF16, F16 or F32");
    if (tensor->shape.size() != 2 || tensor->shape[1] == 0) return wrong_shape(*tensor, "[T, H] with H above 0");
    return MatrixView{tensor->data, *dtype, tensor->shape[0], tensor->shape[1], tensor->shape[1]};
  }

  Result<std::vector<std::int64_t>> token_ids(std::int64_t rows) const {
    const Tensor* tensor = file_.find("token_ids");
    if (tensor == nullptr) return missing("token_ids", "[T] in I64 or I32");
    auto values = integers(*tensor);
    if (!values) return values;
    if (auto valid = check_rows(*tensor, rows); !valid) return tl::unexpected(valid.error());
    return values;
  }

  Result<GivenIds> given_ids(std::int64_t rows) const {
    const Tensor* tensor = file_.find("ids");
    if (tensor == nullptr) return GivenIds{};
    auto values = integers(*tensor);
    if (!values) return tl::unexpected(values.error());
    if (tensor->shape.size() != 2 || tensor->shape[0] != rows || tensor->shape[1] == 0) {
      return wrong_shape(*tensor, base::concat("[", rows, ", K], K ids per row of hidden_states"));
    }
    return GivenIds{tensor->shape[1], std::move(*values)};
  }

  Result<ListedIds> lists(const std::string& name, std::int64_t rows) const {
    const std::string names[] = {name + "_offsets", name + "_ids"};
    const Tensor* offsets = file_.find(names[0]);
    const Tensor* ids = file_.find(names[1]);
    if (offsets == nullptr && ids == nullptr) return ListedIds{};
    if (offsets == nullptr) return missing(names[0].c_str(), "[T + 1] in I64 or I32 beside " + names[1]);
    if (ids == nullptr) return missing(names[1].c_str(), "[n] in I64 or I32 beside " + names[0]);
    auto places = integers(*offsets);
    if (!places) return tl::unexpected(places.error());
    auto values = integers(*ids);
    if (!values) return tl::unexpected(values.error());
    if (offsets->shape.size() != 1 || offsets->shape[0] != rows + 1) {
      return wrong_shape(*offsets, base::concat("[", rows + 1, "], one element more than there are rows"));
    }
    if (ids->shape.size() != 1) return wrong_shape(*ids, "[n]");
    return ListedIds{std::move(*places), std::move(*values)};
  }

  Result<std::vector<float>> temperatures(std::int64_t rows) const {
    const Tensor* tensor = file_.find("temperatures");
    if (tensor == nullptr) return std::vector<float>{};
    if (tensor->dtype != "F32") return wrong_dtype(*tensor, "F32");
    if (auto valid = check_rows(*tensor, rows); !valid) return tl::unexpected(valid.error());
    return copy<float>(*tensor);
  }

 private:
  Result<std::vector<std::int64_t>> integers(const Tensor& tensor) const {
    if (tensor.dtype == "I64") return copy<std::int64_t>(tensor);
    if (tensor.dtype != "I32") return wrong_dtype(tensor, "I64 or I32");
    const std::vector<std::int32_t> narrow = copy<std::int32_t>(tensor);
    return std::vector<std::int64_t>(narrow.begin(), narrow.end());
  }

  tl::unexpected<Error> missing(const char* name, const std::string& expected) const {
    return fail(StatusCode::not_found,
                base::concat(base::in_quotes(file_.path()), " has no tensor \"", name, "\", expected ", expected));
  }
  tl::unexpected<Error> wrong_dtype(const Tensor& tensor, const char* expected) const {
    return fail(StatusCode::invalid_argument,
                base::concat(base::in_quotes(file_.path()), ": ", tensor.name, " has dtype ",
                             base::printable(tensor.dtype), ", expected ", expected));
  }
  tl::unexpected<Error> wrong_shape(const Tensor& tensor, const std::string& expected) const {
    return fail(StatusCode::invalid_argument,
                base::concat(base::in_quotes(file_.path()), ": ", tensor.name, " has shape ",
                             base::shape_text(tensor.shape), ", expected ", expected));
  }
  Result<void> check_rows(const Tensor& tensor, std::int64_t rows) const {
    if (tensor.shape.size() == 1 && tensor.shape[0] == rows) return {};
    return wrong_shape(tensor, base::concat("[", rows, "], one element per row of hidden_states"));
  }

  // By bytes, as the data may be unaligned.
  template <class T>
  static std::vector<T> copy(const Tensor& tensor) {
    std::vector<T> values(tensor.bytes / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), tensor.data, tensor.bytes);
    return values;
  }

  const SafetensorsFile& file_;
};

Result<Captured> read(const std::string& path, bool with_ids) {
  return guarded("reading captured rows", [&]() -> Result<Captured> {
    auto file = SafetensorsFile::open(path);
    if (!file) return tl::unexpected(file.error());
    const CapturedReader reader(*file);
    auto hidden = reader.hidden();
    if (!hidden) return tl::unexpected(hidden.error());
    std::vector<std::int64_t> ids;
    if (with_ids) {
      auto token_ids = reader.token_ids(hidden->rows);
      if (!token_ids) return tl::unexpected(token_ids.error());
      ids = std::move(*token_ids);
    }
    auto temperatures = reader.temperatures(hidden->rows);
    if (!temperatures) return tl::unexpected(temperatures.error());
    return Captured{*hidden, std::move(ids), std::move(*temperatures), std::move(*file)};
  });
}

}  // namespace

Result<Captured> read_captured(const std::string& path) { return read(path, true); }

Result<Captured> read_hidden_rows(const std::string& path) { return read(path, false); }

Result<GivenIds> read_given_ids(const Captured& captured) {
  return guarded("reading ids", [&] { return CapturedReader(captured.file).given_ids(captured.hidden.rows); });
}

Result<ListedIds> read_lists(const Captured& captured, const std::string& name) {
  return guarded("reading lists of ids",
                 [&] { return CapturedReader(captured.file).lists(name, captured.hidden.rows); });
}

}  // namespace isologit::detail::io
