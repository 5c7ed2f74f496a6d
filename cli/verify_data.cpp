#include "cli/verify_data.hpp"

#include <cmath>
#include <limits>

#include "base/philox.hpp"
#include "exact/encode.hpp"

namespace isologit::detail::cli {
namespace {

using Words = std::array<std::uint32_t, 4>;

Words random_words(std::uint32_t stream, std::uint64_t i) {
  return base::philox4x32_10({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), stream, 0}, {1, 2});
}

// Near to normal, variance 4/3: four numbers of 16 bits added up.
double normal(const Words& words) {
  std::int64_t sum = -131070;
  for (const std::uint32_t word : {words[0], words[1]}) sum += (word & 0xFFFFU) + (word >> 16);
  return static_cast<double>(sum) * 0x1p-15;
}

double smallest(DType dtype) { return dtype == DType::f16 ? 0x1p-24 : dtype == DType::bf16 ? 0x1p-133 : 0x1p-149; }

// One of a thousand or so is what f32 has beside ordinary numbers; a weight's row would make every row of results NaN.
double special(const Words& words, DType dtype, Side side) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double sign = (words[2] & 1U) != 0 ? -1.0 : 1.0;
  switch (words[3] % 1024) {
    case 0: return side == Side::hidden ? sign * infinity : sign;
    case 1: return side == Side::hidden ? std::numeric_limits<double>::quiet_NaN() : -sign;
    case 2: return sign * 0x1p15;
    default: break;
  }
  if (words[3] % 16 == 3) return sign * smallest(dtype);
  if (words[3] % 16 == 4) return sign * 0.0;
  return normal(words);
}

double element(DataFamily family, Side side, DType dtype, const Words& words, std::int64_t col) {
  switch (family) {
    case DataFamily::outliers: return normal(words) * (col % 16 == 5 ? 64 : 1);
    case DataFamily::wide:
      return words[3] % 4 == 0 ? 0.0 : std::ldexp(normal(words), static_cast<int>(words[2] % 25) - 12);
    case DataFamily::ties:
      return std::ldexp(static_cast<double>(words[0] & 0xFFU) - 128, static_cast<int>(words[2] % 7));
    case DataFamily::specials: return special(words, dtype, side);
    case DataFamily::normal:
    case DataFamily::cancellation: break;
  }
  return normal(words);
}

Elements selected(const Elements& matrix, std::span<const std::int64_t> rows) {
  Elements chosen{matrix.dtype, static_cast<std::int64_t>(rows.size()), matrix.cols, {}};
  const auto size = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(matrix.cols) * dtype_size(matrix.dtype));
  for (const std::int64_t row : rows) {
    const auto begin = matrix.bytes.begin() + row * size;
    chosen.bytes.insert(chosen.bytes.end(), begin, begin + size);
  }
  return chosen;
}

template <class T>
std::vector<T> selected(const std::vector<T>& values, std::span<const std::int64_t> rows) {
  std::vector<T> chosen;
  chosen.reserve(rows.size());
  for (const std::int64_t row : rows) chosen.push_back(values[static_cast<std::size_t>(row)]);
  return chosen;
}

std::vector<float> some_normals(std::int64_t count, std::uint32_t stream) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(normal(random_words(stream, static_cast<std::uint64_t>(i)))));
  }
  return values;
}

}  // namespace

const char* name_of(DataFamily family) {
  switch (family) {
    case DataFamily::normal: return "normal";
    case DataFamily::outliers: return "outliers";
    case DataFamily::wide: return "wide";
    case DataFamily::ties: return "ties";
    case DataFamily::cancellation: return "cancellation";
    case DataFamily::specials: return "specials";
  }
  return "unknown";
}

std::uint32_t stream_of(DataFamily family, DType dtype, std::uint32_t use) {
  return (static_cast<std::uint32_t>(family) * 16 + static_cast<std::uint32_t>(dtype)) * 64 + use;
}

std::uint32_t random_word(std::uint32_t stream, std::uint64_t i) { return random_words(stream, i)[0]; }

Elements make_elements(DataFamily family, Side side, DType dtype, std::int64_t rows, std::int64_t cols,
                       std::uint32_t stream) {
  Elements made{dtype, rows, cols,
                std::vector<std::uint8_t>(static_cast<std::size_t>(rows * cols) * dtype_size(dtype))};
  std::vector<double> row(static_cast<std::size_t>(cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const Words words = random_words(stream, static_cast<std::uint64_t>(r * cols + c));
      row[static_cast<std::size_t>(c)] = element(family, side, dtype, words, c);
    }
    if (family == DataFamily::cancellation) {
      const std::size_t half = row.size() / 2;
      for (std::size_t c = 0; c < half; ++c) row[half + c] = side == Side::hidden ? -row[c] : row[c];
      row.back() = std::ldexp(row.back(), -6);
    }
    for (std::int64_t c = 0; c < cols; ++c) {
      const double value = row[static_cast<std::size_t>(c)];
      exact::store_element(made.bytes.data() + static_cast<std::size_t>(r * cols + c) * dtype_size(dtype), dtype,
                           std::isfinite(value) ? exact::narrow(value, dtype) : value);
    }
  }
  return made;
}

HeadCase make_head_case(DataFamily family, DType dtype, const HeadShape& shape) {
  const auto [rows, vocab, cols] = shape;
  const auto stream = [&](std::uint32_t use) { return stream_of(family, dtype, use); };
  HeadCase made;
  made.hidden = make_elements(family, Side::hidden, dtype, rows, cols, stream(0));
  made.weight = make_elements(family, Side::weight, dtype, vocab, cols, stream(1));
  made.bias = make_elements(DataFamily::normal, Side::weight, dtype, 1, vocab, stream(2));
  made.given = make_elements(family, Side::hidden, dtype, rows, vocab, stream(10));
  made.d_logprobs = some_normals(rows, stream(3));
  made.d_lse = some_normals(rows, stream(4));
  made.d_entropy = some_normals(rows, stream(5));
  made.temperatures.assign(static_cast<std::size_t>(rows), 1);
  if (dtype == DType::f16) {
    made.transforms.has_softcap = true;
    made.transforms.softcap = 30;
    made.transforms.scale_kind = ScaleKind::multiply;
    made.transforms.scale = 0.75F;
  } else if (dtype == DType::f32) {
    made.transforms.scale_kind = ScaleKind::divide;
    made.transforms.scale = 1.5F;
    made.last_id = vocab - 7;
  }
  for (std::int64_t n = 0; n < rows; ++n) {
    const auto i = static_cast<std::uint64_t>(n);
    const std::int64_t ids = made.last_id < 0 ? vocab : made.last_id;
    if (dtype != DType::bf16) made.temperatures[i] = n % 3 == 0 ? 0.7F : n % 3 == 1 ? 1.0F : 1.3F;
    made.token_ids.push_back(n == 3 ? -100 : random_word(stream(6), i) % ids);
    made.seeds.push_back(random_word(stream(7), i));
    made.sequence_ids.push_back(std::uint64_t{random_word(stream(8), i)} << 20);
    made.positions.push_back(random_word(stream(9), i));
    made.min_p.push_back(n % 4 == 1 ? 0.01F : 0.0F);
    made.top_k.push_back(n % 4 == 2 ? 5 : 0);
    made.top_p.push_back(n % 4 == 3 ? 0.9F : 1.0F);
  }
  return made;
}

HeadCase select_rows(const HeadCase& one, std::span<const std::int64_t> rows) {
  HeadCase chosen = one;
  chosen.hidden = selected(one.hidden, rows);
  chosen.given = selected(one.given, rows);
  chosen.temperatures = selected(one.temperatures, rows);
  chosen.min_p = selected(one.min_p, rows);
  chosen.top_p = selected(one.top_p, rows);
  chosen.d_logprobs = selected(one.d_logprobs, rows);
  chosen.d_lse = selected(one.d_lse, rows);
  chosen.d_entropy = selected(one.d_entropy, rows);
  chosen.token_ids = selected(one.token_ids, rows);
  chosen.top_k = selected(one.top_k, rows);
  chosen.seeds = selected(one.seeds, rows);
  chosen.sequence_ids = selected(one.sequence_ids, rows);
  chosen.positions = selected(one.positions, rows);
  return chosen;
}

}  // namespace isologit::detail::cli
