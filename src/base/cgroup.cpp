#include "base/cgroup.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>

namespace isologit::detail::base {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    if (end > 0) parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

bool contains(std::string_view list, std::string_view name) {
  const auto names = split(list, ',');
  return std::find(names.begin(), names.end(), name) != names.end();
}

// A positive integer and nothing else, but for a final line break.
std::optional<std::int64_t> parse_positive(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value <= 0) return std::nullopt;
  return value;
}

// mountinfo writes a space, a tab, a line break and a backslash as \ and three octal digits.
std::string unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    int code = 0;
    const auto is_octal = [](char digit) { return digit >= '0' && digit <= '7'; };
    if (text[i] == '\\' && text.size() - i > 3 && std::all_of(&text[i + 1], &text[i + 1] + 3, is_octal)) {
      std::from_chars(&text[i + 1], &text[i + 1] + 3, code, 8);
      plain.push_back(static_cast<char>(code));
      i += 3;
    } else {
      plain.push_back(text[i]);
    }
  }
  return plain;
}

struct Mount {
  std::string root;  // the group that is seen at `point`
  std::string point;
  bool v2 = false;
};

// Fields: id, parent, device, root, point, options, any number of optional ones, "-", type, source, super options.
std::optional<Mount> parse_cpu_mount(std::string_view line) {
  const auto fields = split(line, ' ');
  const auto dash = std::find(fields.begin(), fields.end(), "-");
  if (dash - fields.begin() < 6 || fields.end() - dash < 4) return std::nullopt;
  const bool v2 = dash[1] == "cgroup2";
  if (!v2 && !(dash[1] == "cgroup" && contains(dash[3], "cpu"))) return std::nullopt;
  return Mount{unescape(fields[3]), unescape(fields[4]), v2};
}

// The process's group below the mount's root, "" when the mount shows that group itself or does not reach it: a
// container may see its own group mounted while /proc/self/cgroup still names it as the host does.
std::string_view below_root(std::string_view group, std::string_view root) {
  if (root == "/") return group == "/" ? "" : group;
  const bool inside = group.starts_with(root) && (group.size() == root.size() || group[root.size()] == '/');
  return inside ? group.substr(root.size()) : "";
}

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::optional<int> folder_quota(const std::string& path, bool v2) {
  if (v2) {
    const auto text = read_text(path + "/cpu.max");
    return text ? parse_cpu_max(*text) : std::nullopt;
  }
  const auto quota = read_text(path + "/cpu.cfs_quota_us");
  const auto period = read_text(path + "/cpu.cfs_period_us");
  return quota && period ? parse_cfs_quota(*quota, *period) : std::nullopt;
}

}  // namespace

std::optional<int> parse_cfs_quota(std::string_view quota, std::string_view period) {
  const auto quota_us = parse_positive(quota);
  const auto period_us = parse_positive(period);
  if (!quota_us || !period_us) return std::nullopt;
  const std::int64_t processors = *quota_us / *period_us + (*quota_us % *period_us != 0 ? 1 : 0);
  return static_cast<int>(std::min<std::int64_t>(processors, std::numeric_limits<int>::max()));
}

std::optional<int> parse_cpu_max(std::string_view text) {
  const auto fields = split(text, ' ');
  return fields.size() == 2 ? parse_cfs_quota(fields[0], fields[1]) : std::nullopt;
}

std::vector<CgroupFolder> cgroup_cpu_folders(std::string_view self_cgroup, std::string_view mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string_view line : split(mountinfo, '\n')) {
    if (auto mount = parse_cpu_mount(line)) mounts.push_back(*std::move(mount));
  }
  std::vector<CgroupFolder> folders;
  // Lines are "number:controllers:group"; that of v2 is "0::group".
  for (const std::string_view line : split(self_cgroup, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == line.npos ? line.npos : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && !contains(controllers, "cpu")) continue;
    for (const Mount& mount : mounts) {
      if (mount.v2 != v2) continue;
      std::string_view group = below_root(line.substr(second + 1), mount.root);
      for (; !group.empty(); group = group.substr(0, group.rfind('/'))) {
        folders.push_back({mount.point + std::string(group), v2});
      }
      folders.push_back({mount.point, v2});
    }
  }
  return folders;
}

std::optional<int> cgroup_cpu_quota(const std::string& root) {
  const auto self_cgroup = read_text(root + "/proc/self/cgroup");
  const auto mountinfo = read_text(root + "/proc/self/mountinfo");
  if (!self_cgroup || !mountinfo) return std::nullopt;
  std::optional<int> least;
  for (const CgroupFolder& folder : cgroup_cpu_folders(*self_cgroup, *mountinfo)) {
    if (const auto quota = folder_quota(root + folder.path, folder.v2))
      least = std::min(*quota, least.value_or(*quota));
  }
  return least;
}

std::optional<int> CgroupCpuQuota::at(Time now) {
  constexpr std::int64_t kSecond = Time::duration(std::chrono::seconds(1)).count();
  const std::int64_t ticks = now.time_since_epoch().count();
  int quota = quota_;
  if (quota == kUnread || ticks - read_at_ >= kSecond) {
    quota = cgroup_cpu_quota(root_).value_or(kNone);
    quota_ = quota;
    read_at_ = ticks;
  }
  return quota == kNone ? std::nullopt : std::optional(quota);
}

}  // namespace isologit::detail::base
