#include "io/safetensors_writer.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <iterator>

#include "io/safetensors.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TensorToWrite tensor(std::string name, std::string dtype, std::vector<std::int64_t> shape, std::string_view data) {
  return {std::move(name), std::move(dtype), std::move(shape), std::as_bytes(std::span(data))};
}

// What the command does with its output, in one step.
Result<void> write_file(const std::string& path, const std::vector<TensorToWrite>& tensors) {
  const auto destination = find_destination(path);
  if (!destination) return tl::unexpected(destination.error());
  auto file = NewFile::create(*destination);
  if (!file) return tl::unexpected(file.error());
  return write_safetensors(*file, tensors).and_then([&] { return file->complete(); }).and_then([&] {
    return file->move();
  });
}

TEST(SafetensorsWriter, TheBytesOfTheFormat) {
  const TempDir dir;
  const std::vector tensors{tensor("ids", "I32", {2}, "abcdefgh"), tensor("z", "F16", {}, "ij"),
                            tensor("b\"", "I64", {1}, "klmnopqr"), tensor("a", "I64", {0, 3}, "")};
  const auto written = write_file(dir.path("out"), tensors);
  ASSERT_TRUE(written) << written.error().message;
  std::string header = R"({"a":{"dtype":"I64","shape":[0,3],"data_offsets":[0,0]},)"
                       R"("b\"":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                       R"("ids":{"dtype":"I32","shape":[2],"data_offsets":[8,16]},)"
                       R"("z":{"dtype":"F16","shape":[],"data_offsets":[16,18]}})";
  while (header.size() % 8 != 0) header += ' ';
  EXPECT_EQ(read_all(dir.path("out")), safetensors_bytes(header, "klmnopqrabcdefghij"));
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"out"}));
}

TEST(SafetensorsWriter, ReplacesAnOldFile) {
  const TempDir dir;
  dir.write("out", "old");
  ASSERT_TRUE(write_file(dir.path("out"), {}));
  EXPECT_EQ(read_all(dir.path("out")), safetensors_bytes("{}      ", ""));
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"out"}));
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  const TempDir dir;
  const auto refused = [&](const std::vector<TensorToWrite>& tensors, const std::string& why) {
    EXPECT_FAILS(write_file(dir.path("out"), tensors), StatusCode::invalid_argument, why);
  };
  refused({tensor("a", "F32", {1}, "abc")}, R"(tensor "a": 3 bytes of data do not match dtype F32 and shape [1])");
  refused({tensor("a", "F32", {-1}, "abcd")}, "do not match");
  refused({tensor("a", "U8", {std::int64_t{1} << 62, 8}, "")}, "do not match");
  refused({tensor("a", "F31", {1}, "abcd")}, R"(unknown dtype "F31")");
  refused({tensor("a", "U8", {1}, "a"), tensor("b", "U8", {1}, "b"), tensor("a", "U8", {1}, "a")},
          R"(tensor "a" is given twice)");
  refused({tensor("__metadata__", "U8", {1}, "a")}, "reserved");
  refused({tensor("\xff", "U8", {1}, "a")}, "not valid UTF-8");
  EXPECT_TRUE(dir.names().empty());
}

TEST(SafetensorsWriter, MissingFolder) {
  const TempDir dir;
  EXPECT_FAILS(write_file(dir.path("no/out"), {}), StatusCode::io_error, "cannot write to folder", "no",
               "No such file or directory");
}

TEST(SafetensorsWriter, ReadOnlyFolder) {
  const TempDir dir;
  ASSERT_EQ(::chmod(dir.path().c_str(), 0555), 0);
  {
    const Unprivileged user;
    EXPECT_FAILS(write_file(dir.path("out"), {}), StatusCode::io_error, "cannot write to folder", "Permission denied");
  }
  EXPECT_TRUE(dir.names().empty());
}

// Limits the size of files that this process may write, which fails a write midway as a full disk does.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit lower{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &lower);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST(SafetensorsWriter, DiskThatFillsUpLeavesTheOldFileAndNothingElse) {
  const TempDir dir;
  dir.write("out", "old");
  const std::string data(100'000, 'd');
  const std::vector tensors{tensor("a", "U8", {100'000}, data)};
  for (rlim_t limit : {0U, 20U, 50'000U}) {
    Result<void> written;
    {
      const FileSizeLimit full(limit);
      written = write_file(dir.path("out"), tensors);
    }
    EXPECT_FAILS(written, StatusCode::io_error, "cannot write", dir.path("out"), "File too large");
    EXPECT_EQ(dir.names(), (std::vector<std::string>{"out"}));
    EXPECT_EQ(read_all(dir.path("out")), "old");
  }
}

TEST(TensorStream, WritesTheSameBytesPartByPart) {
  const TempDir dir;
  const std::vector tensors{tensor("x", "F16", {2, 3}, "abcdefghijkl")};
  ASSERT_TRUE(write_file(dir.path("whole"), tensors));
  dir.write("parts", "old");
  auto file = NewFile::create(*find_destination(dir.path("parts")));
  ASSERT_TRUE(file) << file.error().message;
  auto stream = TensorStream::begin(*file, "x", "F16", {2, 3});
  ASSERT_TRUE(stream) << stream.error().message;
  const std::string_view data = "abcdefghijkl";
  for (const std::size_t part : {0U, 4U}) {
    ASSERT_TRUE(stream->append(std::as_bytes(std::span(data.substr(part, 4)))));
  }
  EXPECT_FAILS(stream->finish(), StatusCode::invalid_argument, "the tensor still lacks 4 bytes");
  EXPECT_FAILS(stream->append(std::as_bytes(std::span(data))), StatusCode::invalid_argument,
               "12 bytes for a tensor that lacks 4");
  ASSERT_TRUE(stream->append(std::as_bytes(std::span(data.substr(8)))));
  ASSERT_TRUE(stream->finish());
  ASSERT_TRUE(file->complete());
  EXPECT_EQ(read_all(dir.path("parts")), "old");
  ASSERT_TRUE(file->move());
  EXPECT_EQ(read_all(dir.path("parts")), read_all(dir.path("whole")));
  EXPECT_EQ(dir.names().size(), 2U);
  EXPECT_FAILS(TensorStream::begin(*file, "x", "F31", {4}), StatusCode::invalid_argument, "unknown dtype");
}

TEST(SafetensorsWriter, IsReadBack) {
  const TempDir dir;
  const std::vector tensors{tensor("x", "F32", {1, 2}, "abcdefgh")};
  ASSERT_TRUE(write_file(dir.path("out"), tensors));
  const auto file = SafetensorsFile::open(dir.path("out"));
  ASSERT_TRUE(file) << file.error().message;
  const Tensor& x = *file->find("x");
  EXPECT_EQ(x.shape, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(x.data), x.bytes), "abcdefgh");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data) % 8, 0U);
}

}  // namespace
}  // namespace isologit::detail::io
