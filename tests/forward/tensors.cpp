#include "forward/tensors.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "exact/element.hpp"
#include "exact/encode.hpp"
#include "kernels/registry.hpp"

namespace isologit::test {
namespace {

constexpr std::uint8_t kUntouched = 0xA5;
constexpr std::size_t kSkew = 1;

std::size_t size_of(DType dtype) { return dtype_size(dtype); }

}  // namespace

std::vector<std::string> exact_kernels() {
  std::vector<std::string> names;
  for (const detail::kernels::Entry& entry : detail::kernels::registry()) {
    if (entry.arithmetic == Arithmetic::exact && entry.why_not().empty()) names.emplace_back(entry.name);
  }
  return names;
}

const char* name_of(Family family) {
  constexpr const char* kNames[] = {"normal", "outliers", "wide", "tiny", "cancellation", "few_values", "specials"};
  return kNames[static_cast<int>(family)];
}

double draw(oracle::Random& random, Family family, DType dtype) {
  const double infinity = std::numeric_limits<double>::infinity();
  double x = random.normal();
  switch (family) {
    case Family::normal: break;
    case Family::outliers: x *= random.below(16) == 0 ? 1000 : 1; break;
    case Family::wide:
      x = std::ldexp(x, static_cast<int>(random.between(-100, 100)) / (dtype == DType::f16 ? 8 : 1));
      break;
    case Family::tiny: x = std::ldexp(x, dtype == DType::f16 ? -20 : -130); break;
    case Family::cancellation: x = 100 + x * 0x1p-6; break;
    case Family::few_values: x = static_cast<double>(random.between(-2, 2)) / 2; break;
    case Family::specials: {
      const double specials[] = {infinity, -infinity, std::numeric_limits<double>::quiet_NaN(), 0.0, -0.0};
      if (random.below(24) == 0) x = specials[random.below(5)];
    }
  }
  const double rounded = detail::exact::narrow(x, dtype);
  return std::isinf(rounded) && std::isfinite(x) ? 1.0 : rounded;
}

Tensor::Tensor(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim, std::int64_t gap)
    : dtype_(dtype),
      tokens_(tokens),
      heads_(heads),
      dim_(dim),
      head_stride_(dim + gap),
      token_stride_(heads * head_stride_ + gap),
      bytes_(kSkew + static_cast<std::size_t>(tokens * token_stride_) * size_of(dtype), kUntouched) {}

Tensor Tensor::random(oracle::Random& random, Family family, DType dtype, std::int64_t tokens, std::int64_t heads,
                      std::int64_t dim, std::int64_t gap) {
  Tensor tensor(dtype, tokens, heads, dim, gap);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      // Of specials, most rows have none.
      const Family of_row = family == Family::specials && (t + h) % 2 == 0 ? Family::normal : family;
      for (std::int64_t d = 0; d < dim; ++d) tensor.set(t, h, d, draw(random, of_row, dtype));
    }
  }
  return tensor;
}

forward::TensorView Tensor::view() const {
  return {bytes_.data() + kSkew, dtype_, tokens_, heads_, dim_, token_stride_, head_stride_};
}

forward::TensorOutput Tensor::output() { return {bytes_.data() + kSkew, token_stride_, head_stride_}; }

std::size_t Tensor::place(std::int64_t token, std::int64_t head, std::int64_t d) const {
  return kSkew + static_cast<std::size_t>(token * token_stride_ + head * head_stride_ + d) * size_of(dtype_);
}

double Tensor::at(std::int64_t token, std::int64_t head, std::int64_t d) const {
  return static_cast<double>(detail::exact::load_element(bytes_.data() + place(token, head, d), dtype_, 0));
}

void Tensor::set(std::int64_t token, std::int64_t head, std::int64_t d, double value) {
  detail::exact::store_element(bytes_.data() + place(token, head, d), dtype_, value);
}

std::vector<double> Tensor::row(std::int64_t token, std::int64_t head) const {
  std::vector<double> row;
  for (std::int64_t d = 0; d < dim_; ++d) row.push_back(at(token, head, d));
  return row;
}

bool Tensor::gaps_untouched() const {
  std::vector<bool> used(bytes_.size());
  for (std::int64_t t = 0; t < tokens_; ++t) {
    for (std::int64_t h = 0; h < heads_; ++h) {
      for (std::int64_t d = 0; d < dim_; ++d) {
        for (std::size_t byte = 0; byte < size_of(dtype_); ++byte) used[place(t, h, d) + byte] = true;
      }
    }
  }
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    if (!used[i] && bytes_[i] != kUntouched) return false;
  }
  return true;
}

Vector random_vector(oracle::Random& random, Family family, DType dtype, std::int64_t size) {
  Vector vector{dtype, std::vector<std::uint8_t>(static_cast<std::size_t>(size) * size_of(dtype)), {}};
  for (std::int64_t i = 0; i < size; ++i) {
    vector.values.push_back(draw(random, family, dtype));
    detail::exact::store_element(vector.bytes.data() + static_cast<std::size_t>(i) * size_of(dtype), dtype,
                                 vector.values.back());
  }
  return vector;
}

oracle::Format format_of(DType dtype) { return oracle::format_of(dtype); }

testing::AssertionResult same(double found, double right) {
  const auto bits = [](double x) { return std::isnan(x) ? 0 : std::bit_cast<std::uint64_t>(x); };
  if (std::isnan(found) == std::isnan(right) && bits(found) == bits(right)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "found " << testing::PrintToString(found) << ", right is "
                                     << testing::PrintToString(right);
}

}  // namespace isologit::test
