// What parties that share a vocabulary tell one another of dhidden: its sums, to all or to the party that has the row,
// and what these leave open.
#include <algorithm>
#include <utility>

#include "backward/hidden_sums.hpp"
#include "exact/ball.hpp"
#include "exact/two_sum.hpp"

namespace isologit::detail::backward {
namespace {

// Parties hand each other that many sums at a time.
constexpr std::size_t kSharedElements = std::size_t{1} << 20;

}  // namespace

void HiddenSums::share() {
  if (!output_.wanted() || !parties_.several()) return;
  find_owners();
  if (loops_ == nullptr) return;
  if (owners_.empty()) {
    share_sums();
  } else {
    scatter_sums();
  }
  share_what_is_open();
  if (!exact_) return;
  share(row_reaches_, [](double a, double b) { return a + b; });
  share(column_squares_, [](double a, double b) { return std::max(a, b); });
}

void HiddenSums::find_owners() {
  const auto place = [&](std::int64_t index) {
    const auto at = std::lower_bound(rows_.begin(), rows_.end(), index,
                                     [](const ActiveRow& row, std::int64_t wanted) { return row.index < wanted; });
    return static_cast<std::size_t>(at - rows_.begin());
  };
  for (const base::RowRange& rows : parties_.own_rows(hidden_rows_)) {
    owners_.push_back({place(rows.first), place(rows.last)});
  }
  if (!owners_.empty()) own_ = owners_[parties_.number()];
}

void HiddenSums::share_sums() {
  const std::size_t block = std::max<std::size_t>(kSharedElements / static_cast<std::size_t>(columns_), 1);
  for (std::size_t first = 0; first < rows_.size(); first += block) {
    const Rows rows = {first, std::min(first + block, rows_.size())};
    base::ByteWriter own;
    write_sums(rows, own);
    merge_sums(rows, [&](const auto& read) { parties_.exchange(std::move(own), read); });
  }
}

// A block of every party's rows at a time, so that all of them receive.
void HiddenSums::scatter_sums() {
  const std::size_t elements = static_cast<std::size_t>(columns_) * owners_.size();
  const std::size_t block = std::max<std::size_t>(kSharedElements / elements, 1);
  std::size_t most = 0;
  for (const Rows& rows : owners_) most = std::max(most, rows.last - rows.first);
  for (std::size_t done = 0; done < most; done += block) {
    const auto part_of = [&](const Rows& rows) {
      return Rows{std::min(rows.first + done, rows.last), std::min(rows.first + done + block, rows.last)};
    };
    std::vector<base::ByteWriter> own(owners_.size());
    for (std::size_t p = 0; p < owners_.size(); ++p) write_sums(part_of(owners_[p]), own[p]);
    merge_sums(part_of(own_), [&](const auto& read) { parties_.scatter(std::move(own), read); });
  }
}

void HiddenSums::write_sums(Rows rows, base::ByteWriter& bytes) const {
  for (std::size_t r = rows.first; r < rows.last; ++r) {
    for (std::size_t k = 0; k < static_cast<std::size_t>(columns_); ++k) {
      const std::size_t at = r * static_cast<std::size_t>(stride_) + k;
      bytes.put(high_[at]);
      if (exact_) bytes.put(low_[at]);
    }
  }
}

template <class Exchange>
void HiddenSums::merge_sums(Rows rows, Exchange exchange) {
  const auto from = static_cast<std::ptrdiff_t>(rows.first) * stride_;
  const auto to = static_cast<std::ptrdiff_t>(rows.last) * stride_;
  std::fill(high_.begin() + from, high_.begin() + to, 0);
  if (exact_) std::fill(low_.begin() + from, low_.begin() + to, 0);
  merged_ = 0;
  exchange([&](base::ByteReader& bytes) {
    merged_ += 2;  // another party's sum counts as two more terms
    return add_sums(rows, bytes);
  });
}

bool HiddenSums::add_sums(Rows rows, base::ByteReader& bytes) {
  for (std::size_t r = rows.first; r < rows.last; ++r) {
    for (std::size_t k = 0; k < static_cast<std::size_t>(columns_); ++k) {
      const std::size_t at = r * static_cast<std::size_t>(stride_) + k;
      double high = 0;
      double low = 0;
      if (!bytes.get(high) || (exact_ && !bytes.get(low))) return false;
      if (!exact_) {
        high_[at] += high;
        continue;
      }
      const exact::TwoSum sum = exact::two_sum(high_[at], high);
      high_[at] = sum.high;
      low_[at] += sum.low + low;
    }
  }
  return true;
}

void HiddenSums::share_what_is_open() {
  base::ByteWriter own;
  own.put(parts_);
  for (std::vector<std::uint8_t>* flags : {&open_rows_, &open_columns_}) {
    for (const std::uint8_t flag : *flags) own.put(flag);
  }
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    std::int64_t parts = 0;
    if (!bytes.get_count(parts)) return false;
    parts_ = std::max(parts_, parts);
    for (std::vector<std::uint8_t>* flags : {&open_rows_, &open_columns_}) {
      std::uint8_t other = 0;
      for (std::uint8_t& flag : *flags) {
        if (!bytes.get(other)) return false;
        flag |= other;
      }
    }
    return true;
  });
}

void HiddenSums::share(std::vector<double>& numbers, double (*join)(double, double)) const {
  base::ByteWriter own;
  for (const double number : numbers) own.put(number);
  std::fill(numbers.begin(), numbers.end(), 0);
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    double other = 0;
    for (double& number : numbers) {
      if (!bytes.get(other)) return false;
      number = join(number, other);
    }
    return true;
  });
}

// Where parties have rows of their own each finds what is open in these; all have to add their part of it.
void HiddenSums::share_list(std::vector<Open>& open) const {
  if (owners_.empty()) return;
  base::ByteWriter own;
  for (const Open& element : open) {
    own.put(static_cast<std::int64_t>(element.row));
    own.put(element.column);
  }
  open.clear();
  parties_.exchange(std::move(own), [&](base::ByteReader& bytes) {
    while (bytes.left() > 0) {
      std::int64_t row = 0;
      std::int64_t column = 0;
      if (!bytes.get_count(row) || !bytes.get_count(column)) return false;
      if (row >= static_cast<std::int64_t>(rows_.size()) || column >= columns_) return false;
      open.push_back({static_cast<std::size_t>(row), column, {}, {}});
    }
    return true;
  });
  std::sort(open.begin(), open.end(),
            [](const Open& a, const Open& b) { return a.row != b.row ? a.row < b.row : a.column < b.column; });
}

void HiddenSums::share(std::vector<Open>& open) const {
  if (!parties_.several()) return;
  const auto place = [&](std::size_t row) {
    return std::lower_bound(open.begin(), open.end(), row,
                            [](const Open& element, std::size_t wanted) { return element.row < wanted; });
  };
  const auto written = [&](Rows rows) {
    base::ByteWriter bytes;
    for (auto element = place(rows.first); element != place(rows.last); ++element) {
      element->sum.write(bytes);
      exact::write({element->wide, {}}, bytes);
      element->sum = {};
      element->wide = {};
    }
    return bytes;
  };
  const auto read = [&](base::ByteReader& bytes) {
    return std::all_of(place(own_.first), place(own_.last), [&](Open& element) {
      exact::Ball wide;
      if (!element.sum.add_read(bytes) || !exact::read(bytes, wide)) return false;
      element.wide = exact::add(element.wide, wide.middle);
      return true;
    });
  };
  if (owners_.empty()) {
    parties_.exchange(written(own_), read);
    return;
  }
  std::vector<base::ByteWriter> own;
  for (const Rows& rows : owners_) own.push_back(written(rows));
  parties_.scatter(std::move(own), read);
}

}  // namespace isologit::detail::backward
