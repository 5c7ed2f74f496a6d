"""Exact logits of a block: f64 products by the vendor's matmul, a certificate, and a second look at what stays open.

The sum. Products of two elements are exact in f64. A sum of H of them, in any order, fused or not, is off by at most
H 2^-53 (1 + tiny) sum |h_k w_k|, and that is at most |h| |w| (Cauchy and Schwarz). If value - bound and value + bound
round to the same number, so does the real sum.

The lowest bit. Every product is a multiple of unit_h unit_w, the lowest bits of the two rows, so is every partial sum,
and each is at most |h| |w|: if that is below 2^53 units, every one is an f64 number and nothing was rounded. Most of
the sums that fail the first test are ties or representable, and end here.

What is left, well below a percent of usual data, is summed again from its operands in pairs of f64, on the device; and
what these do not decide, by the library's core on the CPU.

Infinities and NaN: a sum over them is what IEEE makes of it in any order, and no finite sum overflows f64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from isologit.torch_backend import core, limits
from isologit.torch_backend.rounding import least_of, lowest_bit, odd_pair, rounded, two_sum


class Rows(NamedTuple):
    """Rows of hidden or weight: as given, in f64, a bound of each one's norm from above, and its lowest bit, [n]."""

    given: Tensor
    values: Tensor
    norm: Tensor
    unit: Tensor

    @classmethod
    def of(cls, given: Tensor) -> "Rows":
        values = given.double()
        # Of up to 2^22 elements the squares, within 2^±298, are summed with an error below 2^-31 of the sum.
        norm = torch.linalg.vector_norm(values, dim=-1) * (1 + 2.0**-30)
        return cls(given, values, norm, lowest_bit(least_of(given), given.dtype))


class Bias(NamedTuple):
    given: Tensor
    values: Tensor
    unit: Tensor

    @classmethod
    def of(cls, given: Tensor) -> "Bias":
        return cls(given, given.double(), lowest_bit(least_of(given[:, None]), given.dtype))


def multiply(hidden: Tensor, weight: Tensor) -> Tensor:
    """[n, v] in f64, of f64 rows."""
    return hidden @ weight.T


def logits(hidden: Rows, weight: Rows, bias: Bias | None, dtype: torch.dtype) -> tuple[Tensor, int]:
    """[n, v] of hidden [n, H] and weight [v, H], each the real sum rounded once; and how many the core decided."""
    size = hidden.values.shape[1]
    z = multiply(hidden.values, weight.values)
    magnitude = hidden.norm[:, None] * weight.norm
    # H additions; the bias's, and the two of the test.
    error = magnitude * ((size + 4) * 2.0**-53 * (1 + 2.0**-20))
    unit = hidden.unit[:, None] * weight.unit
    if bias is not None:
        z = z + bias.values
        magnitude, unit = magnitude + bias.values.abs(), torch.minimum(unit, bias.unit)
    error += z.abs() * 2.0**-51
    exact = (magnitude <= unit * 2.0**52) & magnitude.isfinite()  # a bit in hand for the norms' own roundings
    del unit
    result = rounded(z, dtype)
    # Rounding is monotonic: where both ends agree, what lies between agrees with them.
    open_ = (rounded(z - error, dtype) != rounded(z + error, dtype)) & z.isfinite() & ~exact
    del error, exact
    rows, ids = open_.nonzero(as_tuple=True)
    fallbacks = 0
    for some in limits.slices(len(rows), limits.PAIRS // (size + 1)):
        n, v = rows[some], ids[some]
        found, decided = by_pairs(hidden, weight, bias, n, v, magnitude[n, v], dtype)
        left = (~decided).nonzero()[:, 0]
        if len(left):
            exact_ones = core.logits_of_pairs(hidden.given, weight.given, bias and bias.given, n[left], v[left], dtype)
            found[left] = exact_ones
            fallbacks += len(left)
        result[n, v] = found
    return result, fallbacks


def by_pairs(
    hidden: Rows, weight: Rows, bias: Bias | None, n: Tensor, v: Tensor, magnitude: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The logits of hidden rows n and weight rows v, and where these are proven.

    A tree of L = log2 H levels: the high parts lose nothing that is not in the low ones. A low part is at most
    L 2^-53 magnitude, and of 2 L roundings of it each loses 2^-53 of that, in all below 2^-95 of the magnitude. None
    is lost where all are multiples of the unit and below 2^53 units.
    """
    terms = hidden.values[n] * weight.values[v]
    unit = hidden.unit[n] * weight.unit[v]
    if bias is not None:
        terms = torch.cat([terms, bias.values[v][:, None]], 1)
        unit = torch.minimum(unit, bias.unit[v])
    high, low = _sum_in_pairs(terms)
    high, low = two_sum(high, low)
    doubt = magnitude * 2.0**-95 + low.abs() * 2.0**-52
    doubt = torch.where(magnitude <= unit * 2.0**100, 0.0, doubt)
    below, above = (rounded(odd_pair(*two_sum(high, end)), dtype) for end in (low - doubt, low + doubt))
    return below, (below == above) & high.isfinite()


def _sum_in_pairs(terms: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the rows [n, H], as a high and a low part [n]."""
    high, low = terms, torch.zeros_like(terms)
    while high.shape[1] > 1:
        if high.shape[1] % 2:
            high, low = (torch.nn.functional.pad(x, (0, 1)) for x in (high, low))
        half = high.shape[1] // 2
        high, lost = two_sum(high[:, :half], high[:, half:])
        low = low[:, :half] + low[:, half:] + lost
    return high[:, 0], low[:, 0]
