"""Sums of products of f32 numbers, rounded once."""

import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np


def sum_of_products(*products: tuple[Any, ...]) -> np.ndarray:
    """RN32 of the sum of products of up to four f32 numbers or arrays each, up to five of them; never -0.

    Where one of the numbers is not finite the result is what IEEE arithmetic makes of them.
    """
    shape = np.broadcast_shapes(*(np.shape(x) for product in products for x in product))
    factors = [[np.broadcast_to(np.asarray(x, np.float32), shape).ravel() for x in product] for product in products]
    with np.errstate(over="ignore", invalid="ignore"):
        terms = [math.prod(x.astype(np.float64) for x in product) for product in factors]
        value = sum(terms)
        # Of at most 6 roundings each is within 2^-53 of what |terms| add up to. Nothing here leaves the range of f64.
        doubt = sum(np.abs(term) for term in terms) * 2.0**-50
        result = value.astype(np.float32) + np.float32(0)
        open_ = np.isfinite(value) & ((value - doubt).astype(np.float32) != (value + doubt).astype(np.float32))
        for i in np.flatnonzero(open_):
            exact = sum(math.prod(Fraction(float(x[i])) for x in product) for product in factors)
            result[i] = np.float32(round_to_odd(exact)) + np.float32(0)
    return result.reshape(shape)


def round_to_odd(x: Fraction) -> float:
    """The f64 that rounds to any shorter type as x does: x, or that one of its neighbours whose last bit is set."""
    nearest = float(x)
    if nearest == x or struct.unpack("<q", struct.pack("<d", nearest))[0] & 1:
        return nearest
    return math.nextafter(nearest, math.inf if x > nearest else -math.inf)
