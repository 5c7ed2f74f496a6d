// Ball arithmetic against rational arithmetic: every result holds what every pair of points of its operands gives, and
// is not much wider than it must be.
#include "exact/ball.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "exact/numbers.hpp"

namespace isologit::test {
namespace {

using detail::exact::Ball;
using detail::exact::BigFloat;
using detail::exact::Bound;
using oracle::Random;

const mpq_class kLittle = 1 + power_of_two(-30);  // more than the roundings of bounds ever cost

mpq_class greatest(const Ball& ball) { return abs(rational(ball.middle)) + rational(ball.radius); }

// What a working precision may cost a number of this size.
mpq_class unit_of(const mpq_class& size, std::size_t limbs) {
  return size * power_of_two(2 - 64 * (static_cast<std::int64_t>(limbs) - 1));
}

TEST(Bound, SumsAndProductsAreUpperBoundsAndNear) {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const auto draw = [&]() -> Bound {
      if (random.below(20) == 0) return {};
      return {1.0 + random.uniform(), random.between(-1, 1) * random.between(0, random.below(2) == 0 ? 60 : 3000)};
    };
    const Bound a = draw();
    const Bound b = draw();
    const mpq_class sum = rational(a) + rational(b);
    const mpq_class product = rational(a) * rational(b);
    ASSERT_GE(rational(a + b), sum);
    ASSERT_LE(rational(a + b), sum * kLittle);
    ASSERT_GE(rational(a * b), product);
    ASSERT_LE(rational(a * b), product * kLittle);
    ASSERT_EQ(rational(to_bigfloat(a)), rational(a));
    const BigFloat x = random_bigfloat(random, 4);
    ASSERT_GE(rational(Bound::of(x)), abs(rational(x)));
    ASSERT_LE(rational(Bound::of(x)), abs(rational(x)) * kLittle);
  }
}

class Balls : public testing::Test {
 protected:
  // Calls check(a, b, limbs) with random balls.
  template <class Check>
  void with_pairs(int count, Check check) {
    for (int i = 0; i < count; ++i) {
      const Ball a = random_ball(random_, 5);
      Ball b = random_ball(random_, 5);
      if (i % 8 == 0) b.middle = negate(a.middle);
      check(a, b, 1 + random_.below(5));
      if (HasFailure()) return;
    }
  }
  // Of a result and the exact value for points of the operands.
  static void expect_holds(const Ball& result, std::size_t limbs, const mpq_class& value) {
    EXPECT_LE(result.middle.limbs.size(), limbs);
    EXPECT_TRUE(holds(result, value)) << rational(result.middle).get_d() << " +- " << rational(result.radius).get_d()
                                      << " does not hold " << value.get_d();
  }
  Random random_{2};
};

TEST_F(Balls, SumsAndDifferences) {
  with_pairs(20000, [&](const Ball& a, const Ball& b, std::size_t limbs) {
    const mpq_class x = point_of(random_, a);
    const mpq_class y = point_of(random_, b);
    const Ball sum = add(a, b, limbs);
    const Ball difference = subtract(a, b, limbs);
    expect_holds(sum, limbs, x + y);
    expect_holds(difference, limbs, x - y);
    const mpq_class radius = rational(a.radius) + rational(b.radius);
    const mpq_class most = radius + unit_of(2 * (greatest(a) + greatest(b)), limbs);
    EXPECT_LE(rational(sum.radius), most * kLittle);
    EXPECT_LE(rational(difference.radius), most * kLittle);
    // Exact operands that lie within the working precision, and a sum that does, lose nothing.
    const std::int64_t span = std::max(a.middle.top(), b.middle.top()) - std::min(a.middle.exponent, b.middle.exponent);
    const bool fits = span <= static_cast<std::int64_t>(limbs) && add(a.middle, b.middle).limbs.size() <= limbs;
    if (fits && a.is_exact() && b.is_exact()) {
      EXPECT_TRUE(sum.is_exact());
    }
  });
}

TEST_F(Balls, Products) {
  with_pairs(20000, [&](const Ball& a, const Ball& b, std::size_t limbs) {
    const mpq_class x = point_of(random_, a);
    const mpq_class y = point_of(random_, b);
    const Ball product = multiply(a, b, limbs);
    expect_holds(product, limbs, x * y);
    const mpq_class radius = rational(a.radius) * greatest(b) + rational(b.radius) * abs(rational(a.middle));
    EXPECT_LE(rational(product.radius), (radius + unit_of(abs(rational(product.middle)), limbs)) * kLittle);
  });
}

TEST_F(Balls, Quotients) {
  with_pairs(10000, [&](const Ball& a, const Ball& b, std::size_t limbs) {
    if (detail::exact::sign(b) == 0) return;
    const mpq_class x = point_of(random_, a);
    const mpq_class y = point_of(random_, b);
    const Ball quotient = divide(a, b, limbs);
    expect_holds(quotient, limbs, x / y);
    // |y| is taken for the power of two below it.
    const mpq_class least = (abs(rational(b.middle)) - rational(b.radius)) / 2;
    const mpq_class middle = abs(rational(quotient.middle));
    const mpq_class radius = (rational(a.radius) + middle * rational(b.radius)) / least;
    EXPECT_LE(rational(quotient.radius), (radius + unit_of(8 * middle, limbs)) * kLittle) << limbs;
  });
}

TEST_F(Balls, QuotientsByIntegers) {
  with_pairs(20000, [&](const Ball& a, const Ball&, std::size_t limbs) {
    const std::uint32_t divisors[] = {
        1, 2, 3, 10, 4801U * 4801U, 0xFFFFFFFFU, static_cast<std::uint32_t>(random_.next()) | 1U};
    const std::uint32_t divisor = divisors[random_.below(7)];
    const Ball quotient = divide_by(a, divisor, limbs);
    expect_holds(quotient, limbs, point_of(random_, a) / mpq_class(divisor));
    const mpq_class radius = rational(a.radius) / mpq_class(divisor);
    // The divisor may cost a limb that the quotient does not have.
    const mpq_class unit = unit_of(abs(rational(a.middle)), limbs + 1) + unit_of(abs(rational(quotient.middle)), limbs);
    EXPECT_LE(rational(quotient.radius), (radius + unit) * kLittle) << limbs << ' ' << divisor;
  });
}

TEST_F(Balls, PowersOfTwoSignsAndEnds) {
  with_pairs(20000, [&](const Ball& a, const Ball&, std::size_t) {
    const std::int64_t shift = random_.between(-300, 300);
    const Ball scaled = scale_by_power_of_two(a, shift);
    const mpq_class middle = rational(a.middle);
    const mpq_class radius = rational(a.radius);
    EXPECT_EQ(rational(scaled.middle), times_power_of_two(middle, shift));
    EXPECT_EQ(rational(scaled.radius), times_power_of_two(radius, shift));
    EXPECT_EQ(rational(negate(a).middle), -middle);
    EXPECT_EQ(rational(negate(a).radius), radius);
    EXPECT_EQ(rational(lower(a)), middle - radius);
    EXPECT_EQ(rational(upper(a)), middle + radius);
    EXPECT_GE(rational(magnitude(a)), greatest(a));
    EXPECT_LE(rational(magnitude(a)), greatest(a) * kLittle);
    EXPECT_EQ(sign(a), middle - radius > 0 ? 1 : middle + radius < 0 ? -1 : 0);
  });
  // Balls that touch 0 or hold it.
  const BigFloat one = BigFloat::from_double(1);
  for (const BigFloat& middle : {one, negate(one)}) {
    EXPECT_EQ(detail::exact::sign({middle, {1, 0}}), 0);
    EXPECT_EQ(detail::exact::sign({middle, {1.5, 0}}), 0);
    EXPECT_EQ(detail::exact::sign({middle, {1.5, -1}}), middle.negative ? -1 : 1);
  }
  EXPECT_EQ(detail::exact::sign({}), 0);
}

std::vector<std::byte> bytes_of(const Ball& ball) {
  detail::base::ByteWriter writer;
  write(ball, writer);
  return writer.take();
}

bool reads(const std::vector<std::byte>& bytes, Ball& ball) {
  detail::base::ByteReader reader(bytes);
  return read(reader, ball) && reader.left() == 0;
}

TEST_F(Balls, BytesAndBack) {
  with_pairs(500, [&](const Ball& a, const Ball&, std::size_t) {
    const std::vector<std::byte> bytes = bytes_of(a);
    Ball found = Ball::exact(7);
    ASSERT_TRUE(reads(bytes, found));
    EXPECT_EQ(rational(found.middle), rational(a.middle));
    EXPECT_EQ(rational(found.radius), rational(a.radius));
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_FALSE(reads({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)}, found)) << size;
    }
  });
}

TEST_F(Balls, DamagedBytesAreRefused) {
  const Ball good{random_bigfloat(random_, 3), {1.5, -40}};
  Ball found;
  const auto refused = [&](Ball bad) { return !reads(bytes_of(bad), found); };
  EXPECT_FALSE(refused(good));
  for (const double mantissa : {-1.0, 5.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    EXPECT_TRUE(refused({good.middle, {mantissa, 0}})) << mantissa;
  }
  for (const std::int64_t exponent : {std::int64_t{1} << 54, -(std::int64_t{1} << 54), std::int64_t{1} << 62}) {
    EXPECT_TRUE(refused({good.middle, {1.0, exponent}})) << exponent;
    BigFloat far = good.middle;
    far.exponent = exponent;
    EXPECT_TRUE(refused({far, {}})) << exponent;
  }
  // More limbs than there are bytes.
  std::vector<std::byte> bytes = bytes_of(good);
  for (std::size_t i = 0; i < 8; ++i) bytes[1 + 8 + i] = std::byte{0x7F};
  EXPECT_FALSE(reads(bytes, found));
  // Zero limbs at the ends are no damage: the number is trimmed.
  Ball untrimmed = good;
  untrimmed.middle.limbs.insert(untrimmed.middle.limbs.begin(), 0);
  untrimmed.middle.limbs.push_back(0);
  untrimmed.middle.exponent -= 1;
  ASSERT_TRUE(reads(bytes_of(untrimmed), found));
  EXPECT_EQ(found.middle.limbs, good.middle.limbs);
  EXPECT_EQ(found.middle.exponent, good.middle.exponent);
}

}  // namespace
}  // namespace isologit::test
