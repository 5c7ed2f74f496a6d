"""Real functions of f32 arrays, rounded once to f32: by intervals of f64, where these do not settle it of Fractions."""

import decimal
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from isologit._rounding import round_to_odd

_UNIT = 2.0**-50  # more than any of the f64 operations here errs by, relative to its result
_FAR = Fraction(10**5)  # no f32 tells e^x from e^_FAR beyond it, nor from e^-_FAR
_LARGEST = np.finfo(np.float64).max


class Real:
    """Numbers that lie in [low, high]: arrays of f64, or of Fractions, whose arithmetic is exact.

    digits: of the exponential of Fractions; 0 for f64.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, digits: int) -> None:
        self.low, self.high, self.digits = low, high, digits

    @classmethod
    def of(cls, values: np.ndarray, digits: int) -> "Real":
        """Of an array of f32 or of Fractions."""
        if digits:
            exact = np.frompyfunc(Fraction, 1, 1)(values.astype(object)) if values.size else values.astype(object)
            return cls(exact, exact, digits)
        near = values.astype(np.float64)
        return cls(near, near, 0) if values.dtype == np.float32 else cls(near, near, 0)._wider(near, near)

    def number(self, value: Any) -> "Real":
        """One number in every place, exactly; of a Real itself."""
        if isinstance(value, Real):
            return value
        same = np.full(self.low.shape, Fraction(value), object)
        if self.digits:
            return Real(same, same, self.digits)
        near = same.astype(np.float64)
        return Real(near, near, 0) if Fraction(float(value)) == value else Real(near, near, 0)._wider(near, near)

    def _wider(self, low: np.ndarray, high: np.ndarray) -> "Real":
        if not self.digits:
            low, high = low - np.abs(low) * _UNIT, high + np.abs(high) * _UNIT
        return Real(low, high, self.digits)

    def __add__(self, other: Any) -> "Real":
        other = self.number(other)
        return self._wider(self.low + other.low, self.high + other.high)

    def __neg__(self) -> "Real":
        return Real(-self.high, -self.low, self.digits)

    def __sub__(self, other: Any) -> "Real":
        return self + -self.number(other)

    def __mul__(self, other: Any) -> "Real":
        other = self.number(other)
        ends = [one * two for one in (self.low, self.high) for two in (other.low, other.high)]
        return self._wider(np.minimum.reduce(ends), np.maximum.reduce(ends))

    def inverse(self) -> "Real":
        """Of positive numbers."""
        return self._wider(1 / self.high, 1 / self.low)

    def exp(self) -> "Real":
        if self.digits:
            low, _ = _exp(self.low, self.digits)
            _, high = _exp(self.high, self.digits)
            return Real(low, high, self.digits)
        low, high = np.minimum(np.exp(self.low), _LARGEST), np.exp(self.high)
        return Real(low * (1 - _UNIT), high * (1 + _UNIT) + 1e-300, 0)

    def exp_minus_1(self) -> "Real":
        """e^x - 1, of which f64 keeps the relative precision."""
        if self.digits:
            return self.exp() - 1
        return Real(*_around(np.expm1(self.low), np.expm1(self.high)), 0)

    def exp_minus_1_minus_x(self) -> "Real":
        """e^x - 1 - x, likewise; it grows with the distance of x from 0."""
        if self.digits:
            return self.exp() - self - 1
        ends = _exp_tail(self.low), _exp_tail(self.high)
        low, high = _around(np.minimum(*ends), np.maximum(*ends))
        return Real(np.where((self.low < 0) & (self.high > 0), 0, low), high, 0)

    def minimum(self, other: Any) -> "Real":
        other = self.number(other)
        return Real(np.minimum(self.low, other.low), np.minimum(self.high, other.high), self.digits)

    def clip(self, least: Any, most: Any) -> "Real":
        return (-(-self).minimum(-self.number(least))).minimum(most)

    def where(self, small: "Real", large: Any) -> "Real":
        """These numbers where small <= large, and else 0; between the two where that is open."""
        large = self.number(large)
        yes, no = small.high <= large.low, small.low > large.high
        low = np.where(yes, self.low, np.where(no, 0, np.minimum(self.low, 0)))
        return Real(low, np.where(yes, self.high, np.where(no, 0, np.maximum(self.high, 0))), self.digits)


def _around(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With room for what a function of a few operations errs by."""
    low, high = np.clip(low, -_LARGEST, _LARGEST), high
    return low - 16 * _UNIT * np.abs(low), high + 16 * _UNIT * np.abs(high)


def _exp_tail(x: np.ndarray) -> np.ndarray:
    near = np.clip(x, -1, 1)
    series = np.ones_like(near)
    for n in range(20, 2, -1):  # what is left out is below 2^-60 of it
        series = series * near / n + 1
    return np.where(np.abs(x) < 1, near * near / 2 * series, np.exp(x) - 1 - x)


def _exp_of_one(x: Fraction, digits: int) -> tuple[Fraction, Fraction]:
    if x == 0:
        return Fraction(1), Fraction(1)
    x = max(min(x, _FAR), -_FAR)
    context = decimal.Context(digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
    quotient = context.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))
    near = Fraction(context.exp(quotient))
    doubt = near * (2 * abs(x) + 2) / 10 ** (digits - 1)  # of the quotient and of the exponential, one unit each
    return near - doubt, near + doubt


_exp = np.frompyfunc(_exp_of_one, 2, 2)


def _to_f32(x: Fraction) -> np.float32:
    if abs(x) >= 2**128:
        return np.float32(np.copysign(np.inf, x))
    return np.float32(round_to_odd(x))


def rounded(formula: Callable[..., Real], *columns: np.ndarray) -> np.ndarray:
    """RN32 of formula(*columns) in every place, never -0; NaN where one of them is not finite.

    columns: arrays [n] of f32, or of Fractions.
    """
    finite = np.ones(len(columns[0]), bool)
    for column in columns:
        if column.dtype != object:
            finite &= np.isfinite(column)
    result = np.full(len(finite), np.nan, np.float32)
    places, digits = np.flatnonzero(finite), 0
    while len(places):
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            real = formula(*(Real.of(column[places], digits) for column in columns))
            low, high = (
                np.array([_to_f32(x) for x in end], np.float32) if digits else end.astype(np.float32)
                for end in (real.low, real.high)
            )
        settled = low == high
        result[places[settled]] = low[settled] + np.float32(0)
        places, digits = places[~settled], 2 * digits or 40
    return result
