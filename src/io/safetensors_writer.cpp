#include "io/safetensors_writer.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <tuple>
#include <utility>

#include "base/text.hpp"
#include "io/guard.hpp"
#include "io/json.hpp"
#include "io/safetensors_dtype.hpp"

namespace isologit::io {
namespace {

// A new file beside its final place, removed again unless it was moved there.
class NewFile {
 public:
  explicit NewFile(const std::string& path) : path_(path) {}
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!aside_.empty()) ::unlink(aside_.c_str());
  }

  Result<void> create() {
    for (int attempt = 0;; ++attempt) {
      std::string name = base::concat(path_, ".tmp-", ::getpid(), "-", attempt);
      fd_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd_ >= 0) {
        aside_ = std::move(name);
        return {};
      }
      if (errno != EEXIST || attempt == 100) return failure("create", errno);
    }
  }

  Result<void> write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return failure("write", written < 0 ? errno : EIO);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
  }

  Result<void> finish() {
    if (::fsync(fd_) != 0) return failure("write", errno);
    if (::close(std::exchange(fd_, -1)) != 0) return failure("write", errno);
    if (::rename(aside_.c_str(), path_.c_str()) != 0) return failure("create", errno);
    aside_.clear();
    return {};
  }

 private:
  tl::unexpected<Error> failure(const char* what, int error) const {
    return fail(StatusCode::io_error,
                base::concat("cannot ", what, " ", base::in_quotes(path_), ": ", base::errno_text(error)));
  }

  const std::string& path_;
  std::string aside_;
  int fd_ = -1;
};

Result<void> check_destination(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    // Renaming over a device or a pipe would replace it.
    return fail(StatusCode::invalid_argument, base::concat("cannot write ", base::in_quotes(path),
                                                           ": it exists and is not a regular file; name a file"));
  }
  return {};
}

Result<void> check_tensor(const TensorToWrite& tensor) {
  const std::string name = base::concat("tensor ", base::in_quotes(tensor.name));
  if (tensor.name == "__metadata__") {
    return fail(StatusCode::invalid_argument, name + ": this name is reserved by the format");
  }
  const std::optional<unsigned> bits = safetensors_bits(tensor.dtype);
  if (!bits) {
    return fail(StatusCode::invalid_argument, base::concat(name, ": unknown dtype ", base::in_quotes(tensor.dtype)));
  }
  const std::optional<std::uint64_t> count = element_count(tensor.shape);
  std::uint64_t total_bits = 0;
  if (!count || __builtin_mul_overflow(*count, *bits, &total_bits) || total_bits % 8 != 0 ||
      total_bits / 8 != tensor.data.size()) {
    return fail(StatusCode::invalid_argument,
                base::concat(name, ": ", tensor.data.size(), " bytes of data do not match dtype ", tensor.dtype,
                             " and shape ", base::shape_text(tensor.shape)));
  }
  return {};
}

Result<std::string> make_header(std::span<const TensorToWrite* const> ordered) {
  std::string header = "{";
  std::uint64_t offset = 0;
  for (const TensorToWrite* tensor : ordered) {
    auto name = json_string(tensor->name);
    if (!name) return tl::unexpected(name.error());
    const std::uint64_t end = offset + tensor->data.size();
    header += base::concat(header.size() > 1 ? "," : "", *name, R"(:{"dtype":")", tensor->dtype, R"(","shape":[)",
                           base::join(tensor->shape, ","), R"(],"data_offsets":[)", offset, ",", end, "]}");
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

}  // namespace

Result<void> write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors) {
  return guarded("writing a safetensors file", [&]() -> Result<void> {
    std::vector<const TensorToWrite*> ordered;
    for (const TensorToWrite& tensor : tensors) {
      if (auto valid = check_tensor(tensor); !valid) return valid;
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
    auto header = make_header(ordered);
    if (!header) return tl::unexpected(header.error());
    if (auto free = check_destination(path); !free) return free;

    NewFile file(path);
    if (auto done = file.create(); !done) return done;
    const std::string prefix = little_endian(header->size()) + *header;
    if (auto done = file.write(std::as_bytes(std::span(prefix))); !done) return done;
    for (const TensorToWrite* tensor : ordered) {
      if (auto done = file.write(tensor->data); !done) return done;
    }
    return file.finish();
  });
}

}  // namespace isologit::io
