#include "golden/cases.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <utility>

#include "oracle/values.hpp"

namespace isologit::golden {
namespace {

using oracle::DotData;
using oracle::DotFamily;
using oracle::DotShape;
using oracle::Random;
using oracle::RowFamily;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class Range>
const auto& pick(Random& random, const Range& range) {
  return range[random.below(std::size(range))];
}

constexpr std::array dtypes = {DType::bf16, DType::f16, DType::f32};

// A head in which both operands are f32.
DotData given(const DotShape& shape, const std::vector<float>& hidden, const std::vector<float>& weight) {
  DotData data{shape, {}, {}, {}, {}, {}, {}};
  data.hidden.resize(hidden.size() * 4);
  data.weight.resize(weight.size() * 4);
  for (std::size_t i = 0; i < hidden.size(); ++i) oracle::encode(DType::f32, data.hidden.data(), i, hidden[i]);
  for (std::size_t i = 0; i < weight.size(); ++i) oracle::encode(DType::f32, data.weight.data(), i, weight[i]);
  data.hidden_values.assign(hidden.begin(), hidden.end());
  data.weight_values.assign(weight.begin(), weight.end());
  return data;
}

// Rows that all have the same logits: hidden states of 1.
DotData given_logits(RowFamily family, std::int64_t rows, std::int64_t vocab, std::uint64_t seed) {
  return given({rows, vocab, 1, DType::f32, DType::f32, std::nullopt}, std::vector<float>(at(rows), 1.0F),
               oracle::make_row(family, vocab, seed));
}

// Sums on a midpoint of two bf16 numbers or of two f16 numbers, or so near to it that f32 rounds them to it: whoever
// rounds to f32 first and then again goes wrong.
DotData beside_midpoints(std::int64_t rows, std::int64_t vocab, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> hidden, weight;
  for (std::int64_t n = 0; n < rows; ++n) hidden.insert(hidden.end(), 2, n % 2 == 0 ? 1.0F : -0.5F);
  for (std::int64_t v = 0; v < vocab; ++v) {
    const int bits = v % 2 == 0 ? 8 : 11;
    const double odd = std::ldexp(1 + 2 * static_cast<double>(random.below(1U << (bits - 1))), -bits);
    const auto exponent = static_cast<int>(random.between(-12, 14));
    const double middle = random.sign() * std::ldexp(1 + odd, exponent);
    constexpr double nudges[] = {-0x1p-60, 0, 0x1p-60};
    weight.push_back(static_cast<float>(middle));
    weight.push_back(static_cast<float>(middle * pick(random, nudges)));
  }
  return given({rows, vocab, 2, DType::f32, DType::f32, std::nullopt}, hidden, weight);
}

// A kind of data: operands of dot products, or logits given outright. One of the two is set.
struct Kind {
  std::string name;
  std::optional<DotFamily> dot;
  std::optional<RowFamily> row;
};

std::vector<Kind> kinds() {
  std::vector<Kind> all;
  for (const DotFamily family : oracle::dot_families) {
    all.push_back({std::string(name_of(family)), family, std::nullopt});
  }
  for (const RowFamily family : oracle::row_families) {
    all.push_back({"logits:" + std::string(name_of(family)), std::nullopt, family});
  }
  return all;
}

struct Size {
  std::int64_t rows, vocab, cols;
};

// Some of more ids than a tile has, of more rows than a kernel takes at once, of lengths that are no multiple of any
// vector's.
constexpr Size sizes[] = {{1, 1, 5}, {5, 83, 24}, {3, 300, 37}, {17, 40, 64}, {2, 530, 9}, {4, 64, 131}, {35, 18, 16}};

DotData make_data(Random& random, const Kind& kind, const Size& size, std::uint64_t seed) {
  if (kind.row) return given_logits(*kind.row, size.rows, size.vocab, seed);
  DotShape shape{size.rows, size.vocab, size.cols, pick(random, dtypes), pick(random, dtypes), std::nullopt};
  if (random.below(3) != 0) shape.bias = pick(random, dtypes);
  return make_dot(shape, *kind.dot, seed);
}

std::string name_of_data(const Kind& kind, const DotShape& shape) {
  std::string name = kind.name + " " + std::string(dtype_name(shape.hidden)) + "*" +
                     std::string(dtype_name(shape.weight)) +
                     (shape.bias ? "+" + std::string(dtype_name(*shape.bias)) : std::string());
  char text[80];
  std::snprintf(text, sizeof text, " %dx%dx%d", static_cast<int>(shape.rows), static_cast<int>(shape.vocab),
                static_cast<int>(shape.cols));
  return name + text;
}

// Steps of 1 change nothing, so they are none.
const std::pair<const char*, Transforms> transforms_list[] = {
    {"", {}},
    {" softcap", {true, 12.5F, ScaleKind::none, 1}},
    {" scale", {false, 1, ScaleKind::multiply, -0.7F}},
    {" divide", {false, 1, ScaleKind::divide, 1.9F}},
    {" softcap+scale", {true, 3.0F, ScaleKind::multiply, 0.3F}},
    {" softcap+divide", {true, 30.0F, ScaleKind::divide, 0.25F}},
    {" scale:1", {false, 1, ScaleKind::multiply, 1}},
    {" divide:1", {false, 1, ScaleKind::divide, 1}},
};

enum class Temperatures { none, one, same, per_row };
constexpr std::array temperatures_list = {Temperatures::none, Temperatures::one, Temperatures::same,
                                          Temperatures::per_row};

std::vector<float> make_temperatures(Temperatures kind, std::int64_t rows, std::string& name) {
  constexpr const char* names[] = {"", " T:1", " T", " T-per-row"};
  constexpr float values[] = {1.0F, 0.7F, 2.5F, 0.01F, 100.0F};
  name += names[static_cast<std::size_t>(kind)];
  switch (kind) {
    case Temperatures::none: return {};
    case Temperatures::one: return {1.0F};
    case Temperatures::same: return {0.6F};
    case Temperatures::per_row: break;
  }
  std::vector<float> temperatures;
  for (std::int64_t n = 0; n < rows; ++n) temperatures.push_back(values[at(n) % std::size(values)]);
  return temperatures;
}

void pick_steps(Random& random, std::int64_t rows, Transforms& transforms, std::vector<float>& temperatures,
                std::string& name) {
  const auto& [text, picked] = pick(random, transforms_list);
  name += text;
  transforms = picked;
  temperatures = make_temperatures(pick(random, temperatures_list), rows, name);
}

std::int64_t random_id(Random& random, std::int64_t vocab) { return random.between(0, vocab - 1); }

// A range of ids, lists of kept or of banned ones, all of these, or the whole vocabulary.
void pick_support(Random& random, Rows& rows) {
  static const char* const names[] = {"", " range", " kept", " banned", " range+kept+banned"};
  const std::uint64_t kind = random.below(5);
  rows.name += names[kind];
  if (kind == 0) return;
  if (kind == 1 || kind == 4) {
    rows.first_id = random_id(random, rows.vocab);
    rows.last_id = random.between(rows.first_id, rows.vocab);
  }
  const bool has_kept = kind == 2 || kind == 4;
  const bool has_banned = kind == 3 || kind == 4;
  rows.mask.assign(at(rows.rows() * rows.vocab), 1);
  for (std::int64_t n = 0; n < rows.rows(); ++n) {
    std::vector<std::int64_t> kept, banned;
    for (std::int64_t v = 0; v < rows.vocab; ++v) {
      const bool is_kept = has_kept && random.below(4) != 0;
      const bool is_banned = has_banned && random.below(5) == 0;
      if (is_kept) kept.push_back(v);
      if (is_banned) banned.push_back(v);
      const bool in_range = v >= rows.first_id && (rows.last_id < 0 || v < rows.last_id);
      if (!in_range || (has_kept && !is_kept) || is_banned) rows.mask[at(n * rows.vocab + v)] = 0;
    }
    if (has_kept) rows.kept.add(kept);
    if (has_banned) rows.banned.add(banned);
  }
}

void pick_rows_left_out(Random& random, Rows& rows) {
  const std::uint64_t kind = random.below(4);
  if (kind < 2) return;
  rows.by_list = kind == 3;
  rows.name += rows.by_list ? " row-list" : " row-mask";
  for (std::int64_t n = 0; n < rows.rows(); ++n) {
    rows.computed.push_back(random.below(3) != 0 ? 1 : 0);
    if (rows.computed.back() != 0) rows.listed_rows.push_back(n);
  }
}

// The data, a vocabulary that may end before the weight, and what all verbs share but the steps.
void fill_rows(Random& random, const char* verb, const Kind& kind, std::uint64_t seed, Rows& rows) {
  rows.data = make_data(random, kind, pick(random, sizes), seed);
  rows.name = verb + std::string(" ") + name_of_data(kind, rows.data.shape);
  rows.vocab = rows.data.shape.vocab;
  if (rows.vocab > 5 && random.below(3) == 0) {
    rows.vocab -= 3;
    rows.name += " padded";
  }
  pick_rows_left_out(random, rows);
}

// One id in nine is ignored.
std::vector<std::int64_t> pick_ids(Random& random, std::int64_t count, std::int64_t vocab) {
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(random.below(9) == 0 ? -100 : random_id(random, vocab));
  }
  return ids;
}

// Of the last logits, or of logprobs alone or with lse and entropy, over a support or not.
void pick_upstream(Random& random, BackwardCase& made) {
  test::Problem& problem = made.problem;
  const std::size_t logits = at(problem.rows() * problem.vocab());
  const std::uint64_t kind = random.below(5);
  constexpr const char* names[] = {"of-logits", "of-all kept", "of-all banned", "of-all", "of-logprobs"};
  made.name += std::string(" ") + names[kind] + " ids-" + std::to_string(problem.ids_per_row);
  if (kind == 0) problem.d_logprobs.clear();
  if (kind == 0 || kind == 4) {
    problem.d_lse.clear();
    problem.d_entropy.clear();
  }
  for (std::size_t i = 0; kind == 0 && i < logits; ++i) {
    problem.d_logits.push_back(random.below(5) == 0 ? 0.0F : static_cast<float>(random.normal()));
  }
  if (kind == 1 || kind == 2) {
    std::vector<std::uint8_t> mask;
    for (std::size_t i = 0; i < logits; ++i) mask.push_back(random.below(5) == 0 ? 0 : 1);
    problem.set_mask(std::move(mask), kind == 2);
  }
}

// Each kind of data `times` times, the index of the case being its seed.
template <class Case, class Fill>
std::vector<Case> make_cases(int times, Fill fill) {
  std::vector<Case> cases;
  for (const Kind& kind : kinds()) {
    for (int i = 0; i < times; ++i) {
      const std::uint64_t seed = cases.size();
      Random random(seed + 5000);
      Case made;
      fill(random, kind, seed, made);
      cases.push_back(std::move(made));
    }
  }
  return cases;
}

}  // namespace

void Lists::add(const std::vector<std::int64_t>& row) {
  ids.insert(ids.end(), row.begin(), row.end());
  offsets.push_back(static_cast<std::int64_t>(ids.size()));
}

Head Rows::head() const { return {data.weight_view(), data.bias_view(), vocab, transforms}; }

Support Rows::support() const {
  Support support{first_id, last_id, {}, {}};
  if (kept.offsets.size() > 1) support.kept = kept.view();
  if (banned.offsets.size() > 1) support.banned = banned.view();
  return support;
}

std::span<const std::uint8_t> Rows::mask_of(std::int64_t row) const {
  return mask.empty() ? std::span<const std::uint8_t>() : std::span(mask).subspan(at(row * vocab), at(vocab));
}

bool Rows::is_computed(std::int64_t row, bool id_counts) const {
  return (computed.empty() || computed[at(row)] != 0) && !(id_counts && token_ids[at(row)] == -100);
}

std::vector<ScoreCase> score_cases() {
  return make_cases<ScoreCase>(8, [](Random& random, const Kind& kind, std::uint64_t seed, ScoreCase& made) {
    fill_rows(random, "score", kind, seed, made);
    pick_steps(random, made.rows(), made.transforms, made.temperatures, made.name);
    pick_support(random, made);
    made.token_ids = pick_ids(random, made.rows(), made.vocab);
    made.per_row = random.between(1, 4);
    made.ids = pick_ids(random, made.rows() * made.per_row, made.vocab);
    constexpr std::int64_t ks[] = {1, 5, 70};
    made.k = pick(random, ks);
    made.name += " top-" + std::to_string(made.k) + " ids-" + std::to_string(made.per_row);
  });
}

std::vector<LogitsCase> logits_cases() {
  const auto finish = [](LogitsCase& made, DType dtype, std::int64_t begin) {
    made.dtype = dtype;
    made.begin = begin;
    made.count = made.vocab - begin;
    made.name += " from-" + std::to_string(begin) + " to " + std::string(dtype_name(dtype));
  };
  auto cases = make_cases<LogitsCase>(9, [&](Random& random, const Kind& kind, std::uint64_t seed, LogitsCase& made) {
    fill_rows(random, "logits", kind, seed, made);
    pick_steps(random, made.rows(), made.transforms, made.temperatures, made.name);
    finish(made, dtypes[seed % 3], random.below(2) == 0 ? 0 : random_id(random, made.vocab));
  });
  for (const DType dtype : dtypes) {
    for (const auto& [text, transforms] : transforms_list) {
      for (const Temperatures temperatures : temperatures_list) {
        LogitsCase made;
        made.data = beside_midpoints(3, 40, cases.size());
        made.vocab = 40;
        made.transforms = transforms;
        made.name = "logits beside_midpoints" + std::string(text);
        made.temperatures = make_temperatures(temperatures, 3, made.name);
        finish(made, dtype, 0);
        cases.push_back(std::move(made));
      }
    }
  }
  return cases;
}

std::vector<SampleCase> sample_cases() {
  return make_cases<SampleCase>(6, [](Random& random, const Kind& kind, std::uint64_t seed, SampleCase& made) {
    fill_rows(random, "sample", kind, seed, made);
    pick_steps(random, made.rows(), made.transforms, made.temperatures, made.name);
    pick_support(random, made);
    constexpr float min_ps[] = {0.0F, 0.0F, 0.02F, 0.3F, 1.0F};
    constexpr std::int64_t top_ks[] = {0, 0, 1, 3, 50};
    constexpr float top_ps[] = {1.0F, 1.0F, 0.9F, 0.5F, 1e-6F};
    if (random.below(3) == 0) {
      made.name += " T:0-for-some";
      made.temperatures.resize(at(made.rows()), made.temperatures.empty() ? 1.0F : made.temperatures[0]);
      for (std::size_t n = 0; n < made.temperatures.size(); n += 2) made.temperatures[n] = 0;
    }
    for (std::int64_t n = 0; n < made.rows(); ++n) {
      made.keys.push_back({random.next(), random.next(), static_cast<std::uint32_t>(random.next())});
      made.cuts.push_back({pick(random, min_ps), pick(random, top_ks), pick(random, top_ps)});
    }
  });
}

std::vector<BackwardCase> backward_cases() {
  return make_cases<BackwardCase>(6, [](Random& random, const Kind& kind, std::uint64_t seed, BackwardCase& made) {
    constexpr Size small[] = {{1, 1, 5}, {5, 40, 12}, {3, 70, 17}, {9, 20, 24}, {2, 150, 6}};
    test::Problem& problem = made.problem;
    const DotData data = make_data(random, kind, pick(random, small), seed);
    problem = test::make_problem(data.shape, DotFamily::normal, seed, random.between(1, 3));  // for its upstreams
    problem.data = data;
    made.name = "backward " + name_of_data(kind, data.shape);
    pick_steps(random, problem.rows(), problem.transforms, problem.temperatures, made.name);
    pick_upstream(random, made);
    problem.output = pick(random, dtypes);
    const bool onto = random.below(2) == 0;
    if (onto) problem.fill_old(seed);
    made.name += (onto ? " onto " : " to ") + std::string(dtype_name(problem.output));
  });
}

}  // namespace isologit::golden
