"""Rounding once, of f64 tensors, by torch's own operations on any device.

What is relied on is IEEE arithmetic of f64 and conversions between types that round to nearest and keep subnormal
numbers; self_test looks at both. Every operation here is elementwise.
"""

import torch
from torch import Tensor

DIGITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """f64 to the type, once; zeros are +0 and NaN is the one quiet NaN."""
    short = x.to(torch.float32) if dtype == torch.float32 else _odd_f32(x).to(dtype)
    return torch.where(x.isnan(), torch.nan, short + 0.0)


def _odd_f32(x: Tensor) -> Tensor:
    """The f32 that rounds to any shorter type as x does: x, or that one of its neighbours whose last bit is set."""
    near = x.to(torch.float32)
    back, bits = near.double(), near.view(torch.int32)
    inexact = (back != x) & ((bits & 1) == 0) & ~x.isnan()
    step = torch.where(x.abs() > back.abs(), 1, -1).to(torch.int32)
    return torch.where(inexact, bits + step, bits).view(torch.float32)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and what that lost (Knuth). Finite numbers."""
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def odd_pair(s: Tensor, t: Tensor) -> Tensor:
    """The f64 that rounds to any shorter type as the real number s + t does; s is the f64 nearest to it."""
    bits = s.view(torch.int64)
    inexact = (t != 0) & ((bits & 1) == 0)
    step = torch.where((t > 0) == (s > 0), 1, -1)
    return torch.where(inexact, bits + step, bits).view(torch.float64)


def quotient(z: Tensor, d: Tensor) -> Tensor:
    """The f64 that rounds to any shorter type as z / d does; z and d > 0 hold f32 numbers in f64.

    q = RN(z / d); z - q d is found exactly with q in two halves, whose products with d's 24 bits are exact, and whose
    differences from z need no more than 53 bits, being of the size of the last bits of q d.
    """
    q = z / d
    high = (q.view(torch.int64) & -(1 << 27)).view(torch.float64)  # 26 digits
    rest = (z - high * d) - (q - high) * d
    return torch.where(q.isfinite() & (q != 0), odd_pair(q, rest), q)


def lowest_bit(least: Tensor, dtype: torch.dtype) -> Tensor:
    """A power of two, in f64, of which every number of this type is a multiple that is 0 or, in magnitude, at least
    `least`, a positive f64; something above 2^900 where that is an infinity."""
    field = (least.view(torch.int64) >> 52) - (DIGITS[dtype] - 1)
    return (field << 52).view(torch.float64)


def least_of(x: Tensor) -> Tensor:
    """Of each row the smallest magnitude of what is not 0, in f64; infinity if there is none."""
    size = x.abs()
    return torch.where(size == 0, torch.inf, size).amin(-1).double()
