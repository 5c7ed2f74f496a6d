#include "io/mapped_file.hpp"

#include <sys/stat.h>

#include <utility>

#include "support.hpp"

namespace isologit::detail::io {
namespace {

TEST(MappedFile, HoldsTheBytesAlsoAfterAMove) {
  const TempDir dir;
  auto opened = MappedFile::open(dir.write("f", std::string("ab\0c", 4)));
  ASSERT_TRUE(opened) << opened.error().message;
  const void* address = opened->bytes().data();
  MappedFile moved = std::move(*opened);
  EXPECT_EQ(moved.bytes().data(), address);
  EXPECT_EQ(moved.text(), std::string_view("ab\0c", 4));
  auto other = MappedFile::open(dir.write("g", "xyz"));
  ASSERT_TRUE(other);
  moved = std::move(*other);
  EXPECT_EQ(moved.text(), "xyz");
}

TEST(MappedFile, MissingFile) {
  const TempDir dir;
  EXPECT_FAILS(MappedFile::open(dir.path("none")), StatusCode::not_found, dir.path("none"),
               "No such file or directory");
}

TEST(MappedFile, PathThroughAFile) {
  const TempDir dir;
  EXPECT_FAILS(MappedFile::open(dir.write("f", "x") + "/g"), StatusCode::not_found, "Not a directory");
}

TEST(MappedFile, Directory) {
  const TempDir dir;
  EXPECT_FAILS(MappedFile::open(dir.path()), StatusCode::invalid_argument, dir.path(), "is a directory");
}

TEST(MappedFile, EmptyFile) {
  const TempDir dir;
  EXPECT_FAILS(MappedFile::open(dir.write("f", "")), StatusCode::invalid_argument, "is empty");
}

TEST(MappedFile, NamedPipeIsNotWaitedFor) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo(dir.path("pipe").c_str(), 0600), 0);
  EXPECT_FAILS(MappedFile::open(dir.path("pipe")), StatusCode::invalid_argument, "not a regular file");
}

TEST(MappedFile, UnreadableFile) {
  const TempDir dir;
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  const std::string path = dir.write("f", "x");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  const Unprivileged user;
  EXPECT_FAILS(MappedFile::open(path), StatusCode::io_error, "cannot open", "Permission denied");
}

}  // namespace
}  // namespace isologit::detail::io
