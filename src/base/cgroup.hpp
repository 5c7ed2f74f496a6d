// The cpu quota of the control groups (Linux cgroup v1 and v2) that this process is in.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace isologit::detail::base {

// Processors granted by the tightest quota on the way from the process's group to the root, rounded up; nothing when
// no quota is set or none can be read. `root` goes before every path that is read.
std::optional<int> cgroup_cpu_quota(const std::string& root = "");

// The same, read again when it is a second old: reading takes longer than an operator of the forward pass of one row,
// and a quota seldom changes while a process runs. For any number of threads.
class CgroupCpuQuota {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit CgroupCpuQuota(std::string root = "") : root_(std::move(root)) {}
  std::optional<int> at(Time now);

 private:
  static constexpr int kUnread = -1, kNone = 0;
  std::string root_;
  std::atomic<int> quota_ = kUnread;
  std::atomic<std::int64_t> read_at_ = 0;  // in the clock's ticks
};

// Text of cpu.max (v2): "max 100000" is no limit, "150000 100000" is 2.
std::optional<int> parse_cpu_max(std::string_view text);

// Texts of cpu.cfs_quota_us and cpu.cfs_period_us (v1): a quota of -1 is no limit.
std::optional<int> parse_cfs_quota(std::string_view quota, std::string_view period);

// A folder that may hold the files of a quota.
struct CgroupFolder {
  std::string path;
  bool v2 = false;
  bool operator==(const CgroupFolder&) const = default;
};

// From the texts of /proc/self/cgroup and /proc/self/mountinfo: the folders of this process's groups and of all
// groups above them, as far up as they are mounted.
std::vector<CgroupFolder> cgroup_cpu_folders(std::string_view self_cgroup, std::string_view mountinfo);

}  // namespace isologit::detail::base
