#include "base/cgroup.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>

namespace isologit::detail::base {
namespace {

TEST(CpuMax, IsRoundedUp) {
  EXPECT_EQ(parse_cpu_max("100000 100000\n"), 1);
  EXPECT_EQ(parse_cpu_max("100001 100000\n"), 2);
  EXPECT_EQ(parse_cpu_max("150000 100000"), 2);
  EXPECT_EQ(parse_cpu_max("1000 100000\n"), 1);
  EXPECT_EQ(parse_cpu_max("3200000 50000\n"), 64);
}

TEST(CpuMax, IsNothingWithoutALimit) {
  EXPECT_EQ(parse_cpu_max("max 100000\n"), std::nullopt);
  for (const char* text : {"", "\n", "100000", "100000 ", "100000 0", "0 100000", "-1 100000", "1e5 100000",
                           "100000 100000 100000", "99999999999999999999 1", "100000\t100000"}) {
    EXPECT_EQ(parse_cpu_max(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(CpuMax, DoesNotOverflow) { EXPECT_EQ(parse_cpu_max("9223372036854775807 1"), std::numeric_limits<int>::max()); }

TEST(CfsQuota, IsReadFromTwoFiles) {
  EXPECT_EQ(parse_cfs_quota("250000\n", "100000\n"), 3);
  EXPECT_EQ(parse_cfs_quota("-1\n", "100000\n"), std::nullopt);
  EXPECT_EQ(parse_cfs_quota("250000\n", ""), std::nullopt);
}

using Folders = std::vector<CgroupFolder>;

TEST(CgroupFolders, ClimbFromTheGroupToTheMount) {
  const char* mounts =
      "22 1 0:20 / /proc rw - proc proc rw\n"
      "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
  EXPECT_EQ(cgroup_cpu_folders("0::/user.slice/user-0.slice/session.scope\n", mounts),
            (Folders{{"/sys/fs/cgroup/user.slice/user-0.slice/session.scope", true},
                     {"/sys/fs/cgroup/user.slice/user-0.slice", true},
                     {"/sys/fs/cgroup/user.slice", true},
                     {"/sys/fs/cgroup", true}}));
  EXPECT_EQ(cgroup_cpu_folders("0::/\n", mounts), (Folders{{"/sys/fs/cgroup", true}}));
}

TEST(CgroupFolders, OfV1AreThoseOfTheCpuController) {
  const char* mounts =
      "31 24 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
      "32 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 master:2 - cgroup cgroup rw,cpu,cpuacct\n";
  EXPECT_EQ(cgroup_cpu_folders("5:cpuset:/a\n4:cpuacct,cpu:/b\n3:cpuacct:/c\n", mounts),
            (Folders{{"/sys/fs/cgroup/cpu,cpuacct/b", false}, {"/sys/fs/cgroup/cpu,cpuacct", false}}));
}

TEST(CgroupFolders, OfAContainerBeginAtTheMountedGroup) {
  const char* mounts = "32 24 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
  const Folders mount_only = {{"/sys/fs/cgroup/cpu", false}};
  EXPECT_EQ(cgroup_cpu_folders("4:cpu:/docker/abc\n", mounts), mount_only);
  EXPECT_EQ(cgroup_cpu_folders("4:cpu:/docker/abc/job\n", mounts),
            (Folders{{"/sys/fs/cgroup/cpu/job", false}, {"/sys/fs/cgroup/cpu", false}}));
  EXPECT_EQ(cgroup_cpu_folders("4:cpu:/docker/abcd\n", mounts), mount_only) << "another group with a like name";
  EXPECT_EQ(cgroup_cpu_folders("4:cpu:/\n", mounts), mount_only);
}

TEST(CgroupFolders, MayHaveSpacesAndColonsInTheirNames) {
  const char* mounts = "35 24 0:30 / /mnt/c\\040g\\134x rw - cgroup2 none rw\n";
  EXPECT_EQ(cgroup_cpu_folders("0::/a:b c\n", mounts), (Folders{{"/mnt/c g\\x/a:b c", true}, {"/mnt/c g\\x", true}}));
}

TEST(CgroupFolders, AreNoneInTextsOfAnotherForm) {
  for (const char* text : {"", "\n\n", "::", "0", "0:", "- - - - -", "1 2 3 4 5 6 - cgroup2", "1 2 - cgroup2 a b"}) {
    EXPECT_EQ(cgroup_cpu_folders("0::/\n1:cpu:/\n", text), Folders{}) << text;
    EXPECT_EQ(cgroup_cpu_folders(text, text), Folders{}) << text;
  }
}

// A made-up file system with the files the kernel would show.
class CgroupQuota : public testing::Test {
 protected:
  CgroupQuota()
      : root_(std::filesystem::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
  }
  ~CgroupQuota() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  std::string root() const { return root_.string(); }
  std::optional<int> quota() { return cgroup_cpu_quota(root()); }

 private:
  std::filesystem::path root_;
};

TEST_F(CgroupQuota, IsTheTightestOnTheWayToTheRoot) {
  write("proc/self/cgroup", "0::/pod/container\n");
  write("proc/self/mountinfo", "35 24 0:30 / /cg rw - cgroup2 cgroup2 rw\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("cg/pod/container/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("cg/pod/cpu.max", "350000 100000\n");
  EXPECT_EQ(quota(), 4);
  write("cg/pod/container/cpu.max", "800000 100000\n");
  EXPECT_EQ(quota(), 4);
  write("cg/pod/container/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CgroupQuota, IsReadFromV1BesideAnEmptyV2) {
  write("proc/self/cgroup", "4:cpu,cpuacct:/job\n0::/\n");
  write("proc/self/mountinfo",
        "32 24 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n41 24 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n");
  write("cg/cpu/cpu.cfs_quota_us", "-1\n");
  write("cg/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("cg/cpu/job/cpu.cfs_quota_us", "700000\n");
  write("cg/cpu/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 7);
}

TEST_F(CgroupQuota, IsReadAgainAfterASecond) {
  using std::chrono::milliseconds;
  write("proc/self/cgroup", "0::/\n");
  write("proc/self/mountinfo", "35 24 0:30 / /cg rw - cgroup2 cgroup2 rw\n");
  CgroupCpuQuota recent(root());
  const CgroupCpuQuota::Time begin = std::chrono::steady_clock::now();
  EXPECT_EQ(recent.at(begin), std::nullopt);
  write("cg/cpu.max", "300000 100000\n");
  EXPECT_EQ(recent.at(begin + milliseconds(999)), std::nullopt);
  EXPECT_EQ(recent.at(begin + milliseconds(1000)), 3);
  write("cg/cpu.max", "200000 100000\n");
  EXPECT_EQ(recent.at(begin + milliseconds(1900)), 3);
  EXPECT_EQ(recent.at(begin + milliseconds(2000)), 2);
}

TEST_F(CgroupQuota, IsNothingWhereThereAreNoControlGroups) { EXPECT_EQ(quota(), std::nullopt); }

}  // namespace
}  // namespace isologit::detail::base
