#include "io/new_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <iterator>
#include <set>

#include "io/mapped_file.hpp"
#include "io/read_files.hpp"
#include "support.hpp"

namespace isologit::detail::io {
namespace {

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A file whose bytes are written and which is not in its place yet.
Result<NewFile> begin(const std::string& path, std::string_view bytes) {
  const auto destination = find_destination(path);
  if (!destination) return tl::unexpected(destination.error());
  auto file = NewFile::create(*destination);
  if (file) {
    EXPECT_TRUE(file->write(std::as_bytes(std::span(bytes))));
  }
  return file;
}

void write_through(const std::string& path) {
  auto file = begin(path, "new");
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_TRUE(file->complete());
  ASSERT_TRUE(file->move());
}

TEST(NewFile, IsInItsPlaceOnlyWhenItWasMoved) {
  const TempDir dir;
  dir.write("out", "old");
  for (const bool completed : {false, true}) {
    auto file = begin(dir.path("out"), "new");
    ASSERT_TRUE(file);
    if (completed) {
      ASSERT_TRUE(file->complete());
    }
    EXPECT_EQ(read_all(dir.path("out")), "old");
    EXPECT_EQ(dir.names().size(), 2U);
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"out"});
  write_through(dir.path("out"));
  EXPECT_EQ(read_all(dir.path("out")), "new");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"out"});
}

TEST(NewFile, TwoAtATimeForOneDestination) {
  const TempDir dir;
  auto one = begin(dir.path("out"), "one");
  auto other = begin(dir.path("out"), "other");
  ASSERT_TRUE(one);
  ASSERT_TRUE(other);
  EXPECT_EQ(dir.names().size(), 2U);
  ASSERT_TRUE(other->complete());
  ASSERT_TRUE(other->move());
  ASSERT_TRUE(one->complete());
  ASSERT_TRUE(one->move());
  EXPECT_EQ(read_all(dir.path("out")), "one");
}

TEST(NewFile, RemovesWhatNobodyIsWriting) {
  const TempDir dir;
  dir.write(".isologit-1-0.tmp", "left");
  dir.write(".isologit-1-1.tmp", "being written");
  for (const char* name : {".isologit-1", "isologit-1-0.tmp", "out.tmp"}) dir.write(name, "foreign");
  const int busy = ::open(dir.path(".isologit-1-1.tmp").c_str(), O_RDWR);
  ASSERT_EQ(::flock(busy, LOCK_EX), 0);
  write_through(dir.path("out"));
  const std::vector<std::string> names = dir.names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()),
            (std::set<std::string>{".isologit-1", ".isologit-1-1.tmp", "isologit-1-0.tmp", "out", "out.tmp"}));
  ::close(busy);
}

TEST(NewFile, KeepsTheModeOfWhatItReplaces) {
  const TempDir dir;
  for (const mode_t mode : {0600U, 0640U, 0777U}) {
    ASSERT_EQ(::chmod(dir.write("out", "old").c_str(), mode), 0);
    write_through(dir.path("out"));
    struct stat status {};
    ASSERT_EQ(::stat(dir.path("out").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777U, mode);
  }
}

TEST(NewFile, TellsWhatWentWrongMeanwhile) {
  const TempDir dir;
  auto file = begin(dir.path("out"), "new");
  ASSERT_TRUE(file);
  ASSERT_EQ(::mkfifo(dir.path("out").c_str(), 0600), 0);
  EXPECT_FAILS(file->complete(), StatusCode::io_error, dir.path("out"), "File exists");
  EXPECT_TRUE(std::filesystem::is_fifo(dir.path("out")));
  auto removed = begin(dir.path("other"), "new");
  ASSERT_TRUE(removed);
  for (const std::string& name : dir.names()) std::filesystem::remove(dir.path(name));
  EXPECT_FAILS(removed->complete(), StatusCode::io_error, dir.path("other"), "No such file or directory");
}

TEST(Destination, WhatIsNoFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir.path("sub"));
  EXPECT_FAILS(find_destination(dir.path("sub")), StatusCode::invalid_argument, dir.path("sub"), "is a directory");
  ASSERT_EQ(::mkfifo(dir.path("pipe").c_str(), 0600), 0);
  EXPECT_FAILS(find_destination(dir.path("pipe")), StatusCode::invalid_argument, "not a regular file");
  EXPECT_FAILS(find_destination(dir.path("sub/")), StatusCode::invalid_argument, "names no file");
  EXPECT_FAILS(find_destination(""), StatusCode::invalid_argument, "names no file");
}

TEST(Destination, FollowsLinks) {
  const TempDir dir;
  std::filesystem::create_directory(dir.path("sub"));
  std::filesystem::create_symlink("sub/link", dir.path("link"));
  std::filesystem::create_symlink("../target", dir.path("sub/link"));
  for (const bool there : {false, true}) {
    const auto found = find_destination(dir.path("link"));
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(std::filesystem::weakly_canonical(found->path()), dir.path("target"));
    EXPECT_EQ(found->replaced.has_value(), there);
    write_through(dir.path("link"));
  }
  EXPECT_TRUE(std::filesystem::is_symlink(dir.path("link")));
  EXPECT_EQ(read_all(dir.path("target")), "new");
}

TEST(ReadFiles, TellWhatChanged) {
  const TempDir dir;
  const std::string path = dir.write("file", "text");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  ReadFiles files;  // other tests leave theirs in those of the process
  EXPECT_FALSE(files.contain(status));
  files.note(path, status);
  EXPECT_TRUE(files.contain(status));
  EXPECT_TRUE(files.check());
  const timespec times[] = {{0, UTIME_NOW}, {1, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  EXPECT_FAILS(files.check(), StatusCode::io_error, path, "it was written to");
  dir.write("file", "texts");
  EXPECT_FAILS(files.check(), StatusCode::io_error, path, "it had 4 bytes and has 5");
  dir.write("other", "text");
  std::filesystem::rename(dir.path("other"), path);
  EXPECT_FAILS(files.check(), StatusCode::io_error, path, "another file has taken its place");
  std::filesystem::remove(path);
  EXPECT_FAILS(files.check(), StatusCode::io_error, path, "No such file or directory");
}

TEST(ReadFiles, AreThoseThatAreMapped) {
  const TempDir dir;
  const std::string path = dir.write("file", "text");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  ASSERT_TRUE(MappedFile::open(path));
  EXPECT_TRUE(ReadFiles::of_process().contain(status));
}

}  // namespace
}  // namespace isologit::detail::io
