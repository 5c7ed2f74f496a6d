// Every member of every structure of isologit.h, and what it points to, set to values that no caller should send: the
// call fails with a message that names it, or its results are right; it writes nowhere else and does not crash. How
// many of each is a table, which the page about tests shows. The members come from the header's text, so a new one is
// tried without a word here, and a new structure that no scenario hands over fails the test.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "layout.hpp"
#include "oracle/distribution.hpp"
#include "oracle/encoded.hpp"
#include "oracle/logit.hpp"
#include "oracle/values.hpp"
#include "scenario.hpp"

namespace isologit::capi_test {
namespace {

constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Bytes = std::vector<unsigned char>;

template <class T>
Bytes bytes_of(T value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <class T, class Values>
std::vector<Bytes> all_as(const Values& values) {
  std::vector<Bytes> all;
  for (const auto value : values) all.push_back(bytes_of(static_cast<T>(value)));
  return all;
}

// A stride or a count that is merely large is a statement about memory, which nobody can check: those that no memory
// could bear out are tried.
std::vector<Bytes> hostile_values(const std::string& type, const std::string& name, std::size_t size) {
  if (type == "size_t") return all_as<std::size_t>(std::vector<std::size_t>{0, 1, size - 1, 1U << 20U, SIZE_MAX});
  if (type == "int64_t" && name.find("stride") != std::string::npos) {
    return all_as<std::int64_t>(
        std::vector<std::int64_t>{kLeast, -(std::int64_t{1} << 60), std::int64_t{1} << 60, kMost});
  }
  // With a large vector an output overlaps or not, as memory happens to lie.
  if (type == "int64_t" && name == "size") {
    return all_as<std::int64_t>(std::vector<std::int64_t>{kLeast, -1, 0, kMost});
  }
  if (type == "int64_t")
    return all_as<std::int64_t>(std::vector<std::int64_t>{kLeast, -1, 0, std::int64_t{1} << 41, kMost});
  // Which processors there are differs from machine to machine.
  if (name == "processors") return all_as<std::int32_t>(std::vector<std::int64_t>{INT32_MIN, -1, INT32_MAX});
  if (type == "int32_t") return all_as<std::int32_t>(std::vector<std::int64_t>{INT32_MIN, -1, 0, 1, 99, INT32_MAX});
  if (type == "uint8_t") return all_as<std::uint8_t>(std::vector<int>{0, 2, 255});
  if (type == "uint32_t") return all_as<std::uint32_t>(std::vector<std::int64_t>{0, UINT32_MAX});
  if (type == "uint64_t") return all_as<std::uint64_t>(std::vector<std::uint64_t>{0, UINT64_MAX});
  const std::vector<double> numbers = {kNaN, kInfinity, -kInfinity, -1, 0, 1e-45, 3.4e38};
  if (type == "float") return all_as<float>(numbers);
  if (type == "double") return all_as<double>(numbers);
  return {};
}

// A place in a structure or in what one points to.
struct Place {
  std::vector<std::string> path;  // "isologit_head", "weight", "rows"
  unsigned char* at;
};

// Whether the message has a word for the place: a member on the way to it, or what that is a part of.
bool names(const std::string& message, const Place& place) {
  static const std::multimap<std::string, std::string> also = {{"first_id", "support"},
                                                               {"first_id", "shard"},
                                                               {"vocab_size", "the parties have ids"},
                                                               {"vocab_size", "of the vocabulary"},
                                                               {"vocab_size", "mask: "},  // whose rows are as long
                                                               {"count", "a party sent"},
                                                               {"last_id", "support"},
                                                               {"has_range", "support"},
                                                               {"row_count", "row_list"},
                                                               {"struct_size", "structure"},
                                                               {"has_ignore_index", "token_ids"},
                                                               {"f8_block_rows", "f8_scales"},
                                                               {"f8_block_cols", "f8_scales"},
                                                               {"f8_first_row", "f8_scales"},
                                                               {"logits_arithmetic", "arithmetic"}};
  for (std::size_t i = 1; i < place.path.size(); ++i) {
    std::string word = place.path[i];
    const auto [other, last] = also.equal_range(word);
    if (std::any_of(other, last, [&](const auto& one) { return message.find(one.second) != std::string::npos; })) {
      return true;
    }
    if (word.starts_with("has_")) word = word.substr(4);
    for (const char* part : {"_row_stride", "_count", "_dtype", "_first_id"}) {
      if (word.ends_with(part)) word = word.substr(0, word.size() - std::strlen(part));
    }
    if (message.find(word) != std::string::npos) return true;
  }
  return false;
}

class Hostile : public testing::Test {
 protected:
  static std::string text_of(const char* path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  const std::map<std::string, Layout> layouts_ = layouts_of(text_of(ISOLOGIT_HEADER));
};

// The results of isologit_score by the oracle, from whatever the structures say.
class Expected {
 public:
  explicit Expected(const Scenario& s) : head_(s.head), request_(s.score) {}

  bool computed(std::int64_t row) const {
    const std::int64_t ignored = request_.has_ignore_index != 0 ? request_.ignore_index : -100;
    if (request_.token_ids != nullptr && request_.token_ids[row] == ignored) return false;
    if (request_.row_list != nullptr) {
      return std::find(request_.row_list, request_.row_list + request_.row_count, row) !=
             request_.row_list + request_.row_count;
    }
    return request_.row_mask == nullptr || request_.row_mask[row] != 0;
  }

  float lse(std::int64_t row) const {
    const std::vector<double> h = row_of(request_.hidden, row);
    std::vector<double> a;
    for (std::int64_t j = 0; j < head_.lora.a.rows; ++j) {
      const std::vector<double> row_of_a = row_of(head_.lora.a, j);
      a.insert(a.end(), row_of_a.begin(), row_of_a.end());
    }
    const auto rank = static_cast<std::size_t>(head_.lora.a.rows);
    const auto factors = oracle::low_rank_factors(h.data(), a.data(), rank, h.size(), head_.lora.scale);
    std::vector<float> z;
    std::vector<std::uint8_t> mask;
    for (std::int64_t v = 0; v < head_.vocab_size; ++v) {
      const double bias = head_.bias.data == nullptr ? 0 : value(head_.bias.data, head_.bias.dtype, v);
      z.push_back(oracle::transform(logit(h, v, bias, factors), transforms(), temperature(row)));
      mask.push_back(in_support(row, v) ? 1 : 0);
    }
    return oracle::Row(z, mask).lse();
  }

 private:
  static double value(const void* data, std::int32_t dtype, std::int64_t index) {
    return oracle::decode(static_cast<DType>(dtype), data, static_cast<std::size_t>(index));
  }
  static std::vector<double> row_of(const isologit_matrix& matrix, std::int64_t row) {
    std::vector<double> values;
    for (std::int64_t k = 0; k < matrix.cols; ++k) {
      values.push_back(value(matrix.data, matrix.dtype, row * matrix.row_stride + k));
    }
    return values;
  }
  float logit(const std::vector<double>& h, std::int64_t id, double bias,
              const std::vector<oracle::Extended>& factors) const {
    if (head_.encoding == 0) {
      const std::vector<double> w = row_of(head_.weight, id);
      const std::vector<double> b = row_of(head_.lora.b, id);
      return oracle::low_rank_logit({h.data(), w.data(), h.size()}, bias, factors, b.data());
    }
    std::vector<oracle::Number> w;
    const std::vector<double> scales = row_of(head_.f8_scales, (head_.f8_first_row + id) / head_.f8_block_rows);
    for (std::int64_t k = 0; k < head_.weight.cols; ++k) {
      const std::uint8_t bits = static_cast<const std::uint8_t*>(head_.encoded)[id * head_.weight.row_stride + k];
      const std::int64_t column = head_.f8_block_cols == 0 ? 0 : k / head_.f8_block_cols;
      w.push_back(oracle::f8_number(static_cast<Encoding>(head_.encoding), bits,
                                    scales[static_cast<std::size_t>(column)],
                                    static_cast<F8Product>(head_.f8_product)));
    }
    return oracle::rounded(oracle::sum_of(h, w, bias), DType::f32);
  }
  Transforms transforms() const {
    return {head_.has_softcap != 0, head_.softcap, static_cast<ScaleKind>(head_.scale_kind), head_.scale,
            static_cast<TransformOrder>(head_.transform_order)};
  }
  float temperature(std::int64_t row) const {
    if (request_.temperature_count == 0) return 1;
    return request_.temperatures[request_.temperature_count == 1 ? 0 : row];
  }
  static bool listed(const isologit_id_lists& lists, std::int64_t row, std::int64_t id) {
    const std::int64_t* end = lists.ids + lists.offsets[row + 1];
    return std::find(lists.ids + lists.offsets[row], end, id) != end;
  }
  bool in_support(std::int64_t row, std::int64_t id) const {
    if (request_.has_range != 0 && (id < request_.first_id || id >= request_.last_id)) return false;
    if (request_.mask != nullptr && request_.mask[row * request_.mask_row_stride + id] == 0) return false;
    if (request_.kept.offsets != nullptr && !listed(request_.kept, row, id)) return false;
    return request_.banned.offsets == nullptr || !listed(request_.banned, row, id);
  }

  const isologit_head& head_;
  const isologit_score_request& request_;
};

void expect_right_lse(const Scenario& s) {
  if (!s.structures.contains("isologit_score_request") || s.score.lse == nullptr) return;
  const Expected expected(s);
  for (std::int64_t row = 0; row < s.score.hidden.rows; ++row) {
    const float lse = expected.computed(row) ? expected.lse(row) : 0.0F;
    EXPECT_EQ(oracle::bits_of(s.score.lse[row]), oracle::bits_of(lse)) << "row " << row;
  }
}

struct Tally {
  int refused = 0;
  int right = 0;
};

std::string line_of(const std::string& name, const Tally& tally) {
  char line[80];
  std::snprintf(line, sizeof line, "%-36s %7d %9d %9d\n", name.c_str(), tally.refused + tally.right, tally.right,
                tally.refused);
  return line;
}

// Makes the call, which has been spoilt at the place.
void expect_refused_or_right(const Scenario& s, const Place& place, Tally& tally) {
  std::string where = s.name + ":";
  for (const std::string& step : place.path) where += " " + step;
  SCOPED_TRACE(where);
  const Outcome outcome = s.call();
  for (const auto& array : s.arrays) EXPECT_TRUE(array->intact()) << "written beside a " << array->type();
  if (outcome.status == ISOLOGIT_OK) {
    ++tally.right;
    EXPECT_EQ(outcome.message, "");
    expect_right_lse(s);
    return;
  }
  ++tally.refused;
  EXPECT_TRUE(outcome.status == ISOLOGIT_INVALID_ARGUMENT || outcome.status == ISOLOGIT_UNSUPPORTED) << outcome.status;
  if (s.name != "kernel") {  // which has no message
    EXPECT_TRUE(names(outcome.message, place)) << "the message does not say where: " << outcome.message;
  }
}

// All places that a structure of this layout leads to, `at` being where it lies. Those of a fresh scenario of the same
// kind come in the same order.
class Places {
 public:
  Places(const std::map<std::string, Layout>& layouts, const Scenario& scenario)
      : layouts_(layouts), scenario_(scenario) {
    for (const auto& [name, structure] : scenario.structures) {
      const bool filled = name.ends_with("_report") || name == "isologit_kernel_info";
      add_structure(name, {{name}, static_cast<unsigned char*>(structure)}, filled);
    }
  }

  struct Spoilt {
    Place place;
    Bytes value;
  };
  const std::vector<Spoilt>& all() const { return all_; }
  const std::set<std::string>& structures() const { return structures_; }

 private:
  static Place step(const Place& from, const std::string& name, std::size_t offset) {
    Place place = from;
    place.path.push_back(name);
    place.at += offset;
    return place;
  }
  // Of a structure that the library fills only the size is read.
  void add_structure(const std::string& type, const Place& place, bool filled) {
    structures_.insert(type);
    const Layout& layout = layouts_.at(type);
    for (const Member& member : layout.members) {
      const Place own = step(place, member.name, member.offset);
      if (filled && member.type != "size_t") continue;
      if (member.pointer) {
        add_pointer(member, own);
      } else if (layouts_.contains(member.type)) {
        add_structure(member.type, own, filled);
      } else {
        add_values(member.type, own, layout.size);
      }
    }
  }
  void add_values(const std::string& type, const Place& place, std::size_t size) {
    for (Bytes& value : hostile_values(type, place.path.back(), size)) all_.push_back({place, std::move(value)});
  }
  void add_pointer(const Member& member, const Place& place) {
    all_.push_back({place, bytes_of(static_cast<void*>(nullptr))});
    if (member.type == "char") {
      static const std::string text = "\xFF\xFE%s%n" + std::string(5000, 'k');
      all_.push_back({place, bytes_of(text.c_str())});
    }
    void* data = nullptr;
    std::memcpy(&data, place.at, sizeof data);
    const Array* array = data == nullptr ? nullptr : scenario_.array_at(data);
    if (array == nullptr || !member.constant || member.type == "void") return;
    auto* first = static_cast<unsigned char*>(data);
    if (layouts_.contains(member.type)) {
      add_structure(member.type, {place.path, first}, false);
      return;
    }
    const std::size_t element = hostile_values(member.type, member.name, 0).at(0).size();
    add_values(member.type, {place.path, first}, 0);
    add_values(member.type, {place.path, first + array->size() - element}, 0);
  }

  const std::map<std::string, Layout>& layouts_;
  const Scenario& scenario_;
  std::vector<Spoilt> all_;
  std::set<std::string> structures_;
};

TEST_F(Hostile, TheLayoutsAreThoseOfTheCompiler) {
#define ISOLOGIT_EXPECT_SIZE(name) EXPECT_EQ(layouts_.at(#name).size, sizeof(name))
  ISOLOGIT_EXPECT_SIZE(isologit_matrix);
  ISOLOGIT_EXPECT_SIZE(isologit_lora);
  ISOLOGIT_EXPECT_SIZE(isologit_head);
  ISOLOGIT_EXPECT_SIZE(isologit_score_request);
  ISOLOGIT_EXPECT_SIZE(isologit_score_options);
  ISOLOGIT_EXPECT_SIZE(isologit_score_report);
  ISOLOGIT_EXPECT_SIZE(isologit_backward_request);
  ISOLOGIT_EXPECT_SIZE(isologit_backward_options);
  ISOLOGIT_EXPECT_SIZE(isologit_kernel_info);
  ISOLOGIT_EXPECT_SIZE(isologit_logits_backward_request);
#undef ISOLOGIT_EXPECT_SIZE
}

TEST_F(Hostile, EveryScenarioIsRightBeforeItIsSpoilt) {
  for (const auto& fresh : scenarios()) {
    const auto scenario = fresh();
    const Outcome outcome = scenario->call();
    EXPECT_EQ(outcome.status, ISOLOGIT_OK) << scenario->name << ": " << outcome.message;
    expect_right_lse(*scenario);
  }
}

TEST_F(Hostile, EveryStructureIsHandedOver) {
  std::set<std::string> handed;
  for (const auto& fresh : scenarios()) {
    const auto scenario = fresh();
    handed.merge(std::set<std::string>(Places(layouts_, *scenario).structures()));
  }
  for (const auto& [name, layout] : layouts_) {
    EXPECT_TRUE(handed.contains(name)) << "no scenario hands over a " << name << "; see scenario.cpp";
  }
}

TEST_F(Hostile, EveryMemberIsRefusedByNameOrRight) {
  std::string table = "hostile members of                     cases     right   refused\n";
  Tally all;
  for (const auto& fresh : scenarios()) {
    const std::size_t count = Places(layouts_, *fresh()).all().size();
    Tally tally;
    for (std::size_t i = 0; i < count; ++i) {
      const auto scenario = fresh();
      const Places places(layouts_, *scenario);
      const Places::Spoilt& spoilt = places.all().at(i);
      std::memcpy(spoilt.place.at, spoilt.value.data(), spoilt.value.size());
      expect_refused_or_right(*scenario, spoilt.place, tally);
    }
    table += line_of(fresh()->name, tally);
    all = {all.refused + tally.refused, all.right + tally.right};
    EXPECT_GT(tally.refused, 0);
  }
  table += line_of("all", all);
  EXPECT_NE(text_of(ISOLOGIT_PAGE).find(table), std::string::npos) << ISOLOGIT_PAGE << " shows another table than\n"
                                                                   << table;
}

}  // namespace
}  // namespace isologit::capi_test
