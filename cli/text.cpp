#include "cli/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace isologit::detail::cli {

std::string field_table(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::size_t width = 0;
  for (const auto& [label, value] : fields) width = std::max(width, label.size());
  std::string text;
  for (const auto& [label, value] : fields) {
    if (!label.empty() || !value.empty()) text += fmt::format("  {:<{}}  {}", label, width, value);
    text += '\n';
  }
  return text;
}

std::string column_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("  {:<{}}", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

std::string duration_text(double seconds) {
  if (seconds < 10) return fmt::format("{:.3f} s", seconds);
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string bytes_text(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  constexpr std::array kUnits = {"kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

std::string describe_head(const io::Checkpoint& checkpoint) {
  const MatrixView& weight = checkpoint.head.weight;
  return fmt::format("{}{}  {} [{}, {}]", checkpoint.weight_name, checkpoint.tied ? " (tied)" : "",
                     dtype_name(weight.dtype), weight.rows, weight.cols);
}

std::string transforms_text(const Transforms& transforms) {
  std::string text;
  if (transforms.has_softcap) text = fmt::format("softcap {}", transforms.softcap);
  if (transforms.scale_kind == ScaleKind::none) return text.empty() ? "none" : text;
  if (!text.empty()) text += ", then ";
  return text +
         fmt::format("{} {}", transforms.scale_kind == ScaleKind::multiply ? "times" : "divided by", transforms.scale);
}

std::string kernel_text(const std::string& kernel, int threads, Arithmetic arithmetic) {
  return fmt::format("{}, threads {}, {} arithmetic", kernel, threads, arithmetic_name(arithmetic));
}

}  // namespace isologit::detail::cli
