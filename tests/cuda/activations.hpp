// Activations in memory as a GPU has them, and the operators' kernels on the host.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "cuda/check_forward.hpp"
#include "forward/tensors.hpp"
#include "host_launcher.hpp"
#include "oracle/forward.hpp"
#include "oracle/values.hpp"

namespace isologit::detail::cuda {

using test::dtypes;
using test::families;
using test::Family;
using test::format_of;

// [tokens, heads, dim] with gaps between heads and tokens that hold NaN, its elements at multiples of their size alone
// or, where that is asked for, beginning at a multiple of 16.
class Laid {
 public:
  Laid(DType type, std::int64_t tokens, std::int64_t heads, std::int64_t dim, std::int64_t gap = 0,
       bool aligned = false)
      : type_(type), tokens_(tokens), heads_(heads), dim_(dim), head_stride_(dim + gap), aligned_(aligned) {
    bytes_.resize(static_cast<std::size_t>(tokens * token_stride() + 1) * dtype_size(type) + 16, 0xFF);
  }
  static Laid random(oracle::Random& random, Family family, DType type, std::int64_t tokens, std::int64_t heads,
                     std::int64_t dim, std::int64_t gap = 0, bool aligned = false) {
    Laid made(type, tokens, heads, dim, gap, aligned);
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < heads; ++h) {
        // Of specials, most rows have none.
        const Family of_row = family == Family::specials && (t + h) % 2 == 0 ? Family::normal : family;
        for (std::int64_t d = 0; d < dim; ++d) made.set(t, h, d, test::draw(random, of_row, type));
      }
    }
    return made;
  }

  isologit_tensor view() const {
    return {first(), tokens_, heads_, dim_, token_stride(), head_stride_, static_cast<std::int32_t>(type_)};
  }
  isologit_tensor_output output() const { return {const_cast<std::uint8_t*>(first()), token_stride(), head_stride_}; }
  double at(std::int64_t t, std::int64_t h, std::int64_t d) const { return at_place(place(t, h, d)); }
  void set(std::int64_t t, std::int64_t h, std::int64_t d, double x) {
    oracle::encode(type_, const_cast<std::uint8_t*>(first()), static_cast<std::size_t>(place(t, h, d)),
                   static_cast<float>(x));
  }
  std::vector<double> row(std::int64_t t, std::int64_t h) const {
    std::vector<double> found;
    for (std::int64_t d = 0; d < dim_; ++d) found.push_back(at(t, h, d));
    return found;
  }
  bool gaps_untouched() const {
    std::vector<std::uint8_t> rest = bytes_;
    const auto size = static_cast<std::int64_t>(dtype_size(type_));
    const auto begin = static_cast<std::int64_t>(first() - bytes_.data());
    for (std::int64_t t = 0; t < tokens_; ++t) {
      for (std::int64_t h = 0; h < heads_; ++h) {
        std::memset(rest.data() + begin + place(t, h, 0) * size, 0xFF, static_cast<std::size_t>(dim_ * size));
      }
    }
    return std::all_of(rest.begin(), rest.end(), [](std::uint8_t byte) { return byte == 0xFF; });
  }
  // Whether what is NaN has the bits that results may have.
  bool nans_are_the_one() const {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      for (std::int64_t i = 0; i < heads_ * dim_; ++i) {
        const std::int64_t at = place(t, i / dim_, i % dim_);
        std::uint32_t bits = 0;
        std::memcpy(&bits, first() + at * static_cast<std::int64_t>(dtype_size(type_)), dtype_size(type_));
        const std::uint32_t one = type_ == DType::f32 ? 0x7FC00000U : type_ == DType::bf16 ? 0x7FC0U : 0x7E00U;
        if (std::isnan(at_place(at)) && bits != one) return false;
      }
    }
    return true;
  }
  bool operator==(const Laid& other) const { return bytes_ == other.bytes_; }

 private:
  const std::uint8_t* first() const { return bytes_.data() + (aligned_ ? 0 : dtype_size(type_)); }
  std::int64_t token_stride() const { return heads_ * head_stride_ + (head_stride_ - dim_); }
  double at_place(std::int64_t at) const { return oracle::decode(type_, first(), static_cast<std::size_t>(at)); }
  std::int64_t place(std::int64_t t, std::int64_t h, std::int64_t d) const {
    return t * token_stride() + h * head_stride_ + d;
  }

  DType type_;
  std::int64_t tokens_, heads_, dim_, head_stride_;
  bool aligned_;
  std::vector<std::uint8_t> bytes_;
};

// The same bits; of NaN see nans_are_the_one.
inline testing::AssertionResult same(double found, double right) { return test::same(found, right); }

// Has the kernels make a request, as the library does.
template <class Request, class Launch>
void make_on_host(const Request& request, Launch launch) {
  ASSERT_EQ(check_request(request), "");
  HostLauncher launcher;
  launch(launcher, kernels_request(request));
}

}  // namespace isologit::detail::cuda
