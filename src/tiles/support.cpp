#include "tiles/support.hpp"

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "base/text.hpp"
#include "tiles/validate.hpp"

namespace isologit::detail::tiles {
namespace {

constexpr std::size_t kOffsetsOfOneList = 2;

std::span<const std::int64_t> list_of(const IdLists& lists, std::int64_t row) {
  const std::size_t i = lists.offsets.size() == kOffsetsOfOneList ? 0 : static_cast<std::size_t>(row);
  const auto begin = static_cast<std::size_t>(lists.offsets[i]);
  return lists.ids.subspan(begin, static_cast<std::size_t>(lists.offsets[i + 1]) - begin);
}

// Writes `value` at the ids of the list that lie in the tile.
void mark(std::span<const std::int64_t> ids, std::int64_t first_id, std::int64_t count, std::uint8_t value,
          std::uint8_t* in_support) {
  auto id = std::lower_bound(ids.begin(), ids.end(), first_id);
  for (; id != ids.end() && *id < first_id + count; ++id) in_support[*id - first_id] = value;
}

Result<void> check_lists(std::string_view name, const IdLists& lists, std::int64_t rows, std::int64_t vocab_size) {
  if (lists.offsets.empty()) {
    if (lists.ids.empty()) return {};
    return invalid(base::concat(name, ": ", lists.ids.size(), " ids but no offsets"));
  }
  if (static_cast<std::int64_t>(lists.offsets.size()) != rows + 1 && lists.offsets.size() != kOffsetsOfOneList) {
    return invalid(base::concat(name, ": ", lists.offsets.size(), " offsets for ", rows, " rows; expected ", rows + 1,
                                ", or ", kOffsetsOfOneList, " of one list for all"));
  }
  const auto total = static_cast<std::int64_t>(lists.ids.size());
  if (lists.offsets.front() != 0 || lists.offsets.back() != total) {
    return invalid(base::concat(name, ": offsets from ", lists.offsets.front(), " to ", lists.offsets.back(), " for ",
                                total, " ids; expected 0 to ", total));
  }
  for (std::size_t row = 0; row + 1 < lists.offsets.size(); ++row) {
    const std::int64_t begin = lists.offsets[row];
    const std::int64_t end = lists.offsets[row + 1];
    if (end < begin || end > total) {
      return invalid(
          base::concat(name, ": the offsets of row ", row, " go from ", begin, " to ", end, " of ", total, " ids"));
    }
    std::int64_t previous = -1;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t id = lists.ids[static_cast<std::size_t>(i)];
      if (id <= previous || id >= vocab_size) {
        return invalid(base::concat(name, ": row ", row, " has id ", id, " after ", previous,
                                    "; expected ascending ids, each once, in [0, ", vocab_size, ")"));
      }
      previous = id;
    }
  }
  return {};
}

}  // namespace

Result<void> validate_support(const Support& support, std::int64_t rows, std::int64_t vocab_size) {
  const std::int64_t last = support.last_id < 0 ? vocab_size : support.last_id;
  if (support.first_id < 0 || support.first_id > last || last > vocab_size) {
    return invalid(base::concat("support: range [", support.first_id, ", ", last, ") of a vocabulary of ", vocab_size));
  }
  if (auto checked = check_lists("kept ids", support.kept, rows, vocab_size); !checked) return checked;
  return check_lists("banned ids", support.banned, rows, vocab_size);
}

SupportReader::SupportReader(const Support& support, std::int64_t vocab_size)
    : support_(support),
      last_id_(support.last_id < 0 ? vocab_size : support.last_id),
      everything_(support.first_id == 0 && last_id_ == vocab_size && support.kept.offsets.empty() &&
                  support.banned.offsets.empty()) {}

bool SupportReader::contains(std::int64_t row, std::int64_t id) const {
  if (everything_) return true;
  std::uint8_t in_support = 0;
  fill(row, id, 1, &in_support);
  return in_support != 0;
}

std::int64_t SupportReader::size(std::int64_t row) const {
  const auto in_range = [&](std::span<const std::int64_t> ids) {
    const auto first = std::lower_bound(ids.begin(), ids.end(), support_.first_id);
    return ids.subspan(static_cast<std::size_t>(first - ids.begin()),
                       static_cast<std::size_t>(std::lower_bound(first, ids.end(), last_id_) - first));
  };
  const auto banned =
      support_.banned.offsets.empty() ? std::span<const std::int64_t>() : in_range(list_of(support_.banned, row));
  if (support_.kept.offsets.empty()) return last_id_ - support_.first_id - static_cast<std::int64_t>(banned.size());
  const auto kept = in_range(list_of(support_.kept, row));
  return std::count_if(kept.begin(), kept.end(),
                       [&](std::int64_t id) { return !std::binary_search(banned.begin(), banned.end(), id); });
}

void SupportReader::fill(std::int64_t row, std::int64_t first_id, std::int64_t count, std::uint8_t* in_support) const {
  const bool listed = !support_.kept.offsets.empty();
  std::fill(in_support, in_support + count, static_cast<std::uint8_t>(listed ? 0 : 1));
  if (listed) mark(list_of(support_.kept, row), first_id, count, 1, in_support);
  if (!support_.banned.offsets.empty()) mark(list_of(support_.banned, row), first_id, count, 0, in_support);
  const std::int64_t begin = std::clamp<std::int64_t>(support_.first_id - first_id, 0, count);
  const std::int64_t end = std::clamp<std::int64_t>(last_id_ - first_id, begin, count);
  std::fill(in_support, in_support + begin, std::uint8_t{0});
  std::fill(in_support + end, in_support + count, std::uint8_t{0});
}

}  // namespace isologit::detail::tiles
