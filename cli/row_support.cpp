#include "cli/row_support.hpp"

#include <fmt/format.h>

namespace isologit::detail::cli {
namespace {

// The lists of these rows alone, whose ids are checked here because messages name the rows of the file.
Outcome<io::ListedIds> choose_lists(const std::string& input, const io::Captured& captured, const std::string& name,
                                    const RowRange& range, std::int64_t vocab_size) {
  const Result<io::ListedIds> all = io::read_lists(captured, name);
  if (!all) return failure(all.error());
  io::ListedIds lists;
  if (all->offsets.empty()) return lists;
  const auto total = static_cast<std::int64_t>(all->ids.size());
  lists.offsets.push_back(0);
  for (std::int64_t row = range.begin; row < range.end; ++row) {
    const std::int64_t begin = all->offsets[static_cast<std::size_t>(row)];
    const std::int64_t end = all->offsets[static_cast<std::size_t>(row) + 1];
    if (begin < 0 || end < begin || end > total) {
      return failure(
          fmt::format("'{}': {}_offsets of row {} are {} and {}; expected rising places among the {} of {}_ids", input,
                      name, row, begin, end, total, name));
    }
    std::int64_t previous = -1;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t id = all->ids[static_cast<std::size_t>(i)];
      if (id <= previous || id >= vocab_size) {
        return failure(
            fmt::format("'{}': {}_ids of row {} have {} after {}; expected ascending ids, each once, 0 to {}", input,
                        name, row, id, previous, vocab_size - 1));
      }
      lists.ids.push_back(id);
      previous = id;
    }
    lists.offsets.push_back(static_cast<std::int64_t>(lists.ids.size()));
  }
  return lists;
}

}  // namespace

Support RowSupport::view() const {
  return {ids.begin, ids.end, {kept.offsets, kept.ids}, {banned.offsets, banned.ids}};
}

std::string RowSupport::text(std::int64_t vocab_size) const {
  std::string text;
  const auto add = [&](const std::string& part) { text += text.empty() ? part : ", " + part; };
  if (ids.begin > 0 || ids.end < vocab_size) add(fmt::format("ids {} to {}", ids.begin, ids.end - 1));
  if (!kept.offsets.empty()) add("kept ids of the input");
  if (!banned.offsets.empty()) add("less banned ids of the input");
  return text;
}

Outcome<RowSupport> choose_support(const std::string& input, const io::Captured& captured, const RowRange& range,
                                   std::int64_t vocab_size, const std::optional<RowSlice>& vocab) {
  RowSupport support{{0, vocab_size}, {}, {}};
  if (vocab) {
    const Outcome<RowRange> ids = resolve_ids(*vocab, vocab_size);
    if (!ids) return tl::unexpected(ids.error());
    support.ids = *ids;
  }
  Outcome<io::ListedIds> kept = choose_lists(input, captured, "kept", range, vocab_size);
  if (!kept) return tl::unexpected(kept.error());
  Outcome<io::ListedIds> banned = choose_lists(input, captured, "banned", range, vocab_size);
  if (!banned) return tl::unexpected(banned.error());
  support.kept = std::move(*kept);
  support.banned = std::move(*banned);
  return support;
}

}  // namespace isologit::detail::cli
