// The cpu quota of the control groups (Linux cgroup v1 and v2) that this process is in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace isologit::detail::base {

// Processors granted by the tightest quota on the way from the process's group to the root, rounded up; nothing when
// no quota is set or none can be read. `root` goes before every path that is read.
std::optional<int> cgroup_cpu_quota(const std::string& root = "");

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
