#include "cli/input_rows.hpp"

#include <fmt/format.h>

#include <cmath>

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

Outcome<InputRows> choose_rows(const std::string& input, const io::Captured& captured, const io::Checkpoint& checkpoint,
                               const RowOptions& options, bool zero) {
  if (options.temperature && !captured.temperatures.empty()) {
    return usage_error(fmt::format(
        "--temperature was given, but '{}' has a temperature for each row (tensor temperatures); use one of the two",
        input));
  }
  InputRows rows{{0, captured.hidden.rows}, captured.hidden, {}};
  if (options.rows) {
    const Outcome<RowRange> range = resolve_rows(*options.rows, captured.hidden.rows);
    if (!range) return tl::unexpected(range.error());
    rows.range = *range;
  }
  if (captured.hidden.cols != checkpoint.head.weight.cols) {
    return failure(fmt::format("'{}': hidden_states has rows of {} elements, but those of {} have {}", input,
                               captured.hidden.cols, checkpoint.weight_name, checkpoint.head.weight.cols));
  }
  const std::int64_t row_bytes = captured.hidden.cols * static_cast<std::int64_t>(dtype_size(captured.hidden.dtype));
  rows.hidden.data = static_cast<const std::byte*>(captured.hidden.data) + rows.range.begin * row_bytes;
  rows.hidden.rows = rows.range.end - rows.range.begin;
  if (options.temperature) rows.temperatures = {*options.temperature};
  if (captured.temperatures.empty()) return rows;
  for (std::int64_t row = rows.range.begin; row < rows.range.end; ++row) {
    const float t = captured.temperatures[static_cast<std::size_t>(row)];
    if (!std::isfinite(t) || !(t > 0 || (zero && t == 0))) {
      return failure(fmt::format("'{}': temperatures[{}] is {}; expected a finite number{}", input, row, t,
                                 zero ? ", 0 (greedy) or above" : " above 0"));
    }
    rows.temperatures.push_back(t);
  }
  return rows;
}

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
