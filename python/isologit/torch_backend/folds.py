"""What is said of rows of f32 logits, by f64 on the device: values, and which of them are proven to be the right ones.

With top the greatest logit, at its first id, and d = z - top <= 0 of all others in the support,

    rest = sum e^d,  moment = sum e^d (-d),  squares = sum e^2d,  L = ln(1 + rest)

as in the library's own folds (docs/numerics.md). d is rounded once: a share of |d| 2^-53 of e^d, in the sum at most
2^-53 moment. The device's exp is within FUNCTION_ERROR. Sums are trees of additions of neighbours: a level for each
doubling of the vocabulary, the same tree whatever the rows and the columns that are at hand at a time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from isologit.torch_backend import limits
from isologit.torch_backend.limits import slices
from isologit.torch_backend.rounding import odd_pair, rounded, two_sum
from isologit.torch_backend.transforms import FUNCTION_ERROR

_LEAST = 2.0**-900  # below it the sum of what exp has made may have lost its small terms
_LEVELS = 48  # of the trees: no vocabulary is of 2^40 ids


class Sums(NamedTuple):
    """Of n rows, [n, 1] in f64 but first, which is the id of the top. doubt: the largest error of rest, as a share.
    special: rows whose top is not finite. lost: those whose rest may have lost its small terms."""

    top: Tensor
    first: Tensor
    rest: Tensor
    moment: Tensor
    squares: Tensor
    doubt: Tensor
    special: Tensor
    lost: Tensor

    @property
    def sure(self) -> Tensor:
        """Whether sums tell these rows, [n]."""
        return ~(self.special | self.lost)[:, 0]

    @property
    def total(self) -> Tensor:
        return 1 + self.rest

    @property
    def log_total(self) -> tuple[Tensor, Tensor]:
        """L, and a bound of its error."""
        value = torch.log1p(self.rest)
        return value, self.doubt * self.rest / self.total + value * (FUNCTION_ERROR + 2.0**-52)


def columns(rows: int) -> int:
    """How many at a time: a power of 2, so that they are a subtree of every tree."""
    return 2 ** max(0, (limits.PRODUCTS // rows).bit_length() - 1)


def kept_logits(z: Tensor, kept: Tensor | None, ids: slice) -> Tensor:
    """Those of the ids; -inf outside of the support."""
    return z[:, ids] if kept is None else torch.where(kept[:, ids], z[:, ids], -torch.inf)


def tree_sum(x: Tensor) -> Tensor:
    """[n, m] to [n, 1] by additions of neighbours."""
    while x.shape[1] > 1:
        if x.shape[1] % 2:
            x = torch.nn.functional.pad(x, (0, 1))
        x = x[:, 0::2] + x[:, 1::2]
    return x


def first_of_greatest(z: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """The greatest logit of each row, NaN where there is one, and its first id, [n, 1]; V where none is equal to it."""
    size, step = z.shape[1], columns(z.shape[0])
    top = torch.cat([kept_logits(z, kept, ids).amax(1, keepdim=True) for ids in slices(size, step)], 1)
    top = top.amax(1, keepdim=True)
    first = torch.full_like(top, size, dtype=torch.int64)
    for ids in slices(size, step):
        numbers = torch.arange(ids.start, ids.stop, device=z.device)
        equal = torch.where(kept_logits(z, kept, ids) == top, numbers, size)
        first = torch.minimum(first, equal.amin(1, keepdim=True))
    return top, first


def sums(z: Tensor, kept: Tensor | None) -> Sums:
    top, first = first_of_greatest(z, kept)
    special = ~top.isfinite()
    top = torch.where(special, 0.0, top).double()
    parts: list[list[Tensor]] = [[], [], [], []]
    for ids in slices(z.shape[1], columns(z.shape[0])):
        d = kept_logits(z, kept, ids).double() - top
        numbers = torch.arange(ids.start, ids.stop, device=z.device)
        # Special rows may hold anything.
        counts = (d > -torch.inf) & (numbers != first) & ~special
        e = torch.where(counts, torch.exp(d), 0.0)
        d = torch.where(counts, d, 0.0)
        for part, terms in zip(parts, (e, -d * e, e * e, counts.double()), strict=True):
            part.append(tree_sum(terms))
    rest, moment, squares, others = (tree_sum(torch.cat(part, 1)) for part in parts)
    doubt = FUNCTION_ERROR + (_LEVELS + moment / torch.where(rest > 0, rest, 1.0)) * 2.0**-53
    # Of a single logit above -inf all is known; of others a sum that may have lost something is not.
    lost = (rest < _LEAST) & (others > 0)
    return Sums(top, first, rest, moment, squares, doubt, special, lost)


def certain(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The f32 of a real number between two f64, and whether that is proven."""
    low, high = rounded(low, torch.float32), rounded(high, torch.float32)
    return low, low == high


def lse(s: Sums) -> tuple[Tensor, Tensor]:
    return _beside(s.top, torch.zeros_like(s.top), *s.log_total)


def logprobs(z: Tensor, s: Sums) -> tuple[Tensor, Tensor]:
    """z [n, K], -inf outside of the support: RN32(z - top - L), the first difference exact as two numbers."""
    z = z.double()
    finite = z.isfinite()
    high, low = two_sum(torch.where(finite, z, 0.0), -s.top)
    value, error = s.log_total
    found, sure = _beside(high, low, -value, error)
    return torch.where(finite, found, -torch.inf), sure | ~finite


def _beside(high: Tensor, low: Tensor, small: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """high + low + small, the last with that error: however small it is, its sign decides what would be a tie."""
    error = error + low.abs() * 2.0**-50  # the sums below; where low is 0 they round nothing that `error` does not hold
    ends = (low + (small - error), low + (small + error))
    return certain(*(odd_pair(*two_sum(high, end)) for end in ends))


def entropy(s: Sums) -> tuple[Tensor, Tensor]:
    """L + moment / (1 + rest): nothing cancels."""
    value = s.log_total[0] + s.moment / s.total
    # Of the moment's terms d counts twice, and where e^d is more than 0 it is above -746.
    error = value * (s.doubt + 2 * FUNCTION_ERROR + 800 * 2.0**-53)
    return certain(value - error, value + error)


def sum_p2(s: Sums) -> tuple[Tensor, Tensor]:
    """(1 + squares) / (1 + rest)^2."""
    value = (1 + s.squares) / (s.total * s.total)
    error = value * (4 * s.doubt + 2.0**-50)
    return certain(value - error, value + error)


def mean_logits(z: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    total, size, number = [], [], []
    for ids in slices(z.shape[1], columns(z.shape[0])):
        here = z[:, ids].double()
        if kept is not None:
            here = torch.where(kept[:, ids], here, 0.0)
            number.append(tree_sum(kept[:, ids].expand(len(z), -1).double()))
        total.append(tree_sum(here))
        size.append(tree_sum(here.abs()))
    total, size = (tree_sum(torch.cat(part, 1)) for part in (total, size))
    count = tree_sum(torch.cat(number, 1)) if number else torch.full_like(total, z.shape[1])
    value = total / count
    error = size / count * (_LEVELS * 2.0**-53) + value.abs() * 2.0**-51
    return certain(value - error, value + error)  # never of NaN and infinities
