"""CONTRACT.md 5 by mpmath and rational arithmetic: derivatives of logits at 100 digits, and sums over the rationals."""

from fractions import Fraction
from typing import NamedTuple

import mpmath
import torch
from expected import round_once
from mpmath import mp

DIGITS = 100


class Transforms(NamedTuple):
    """temperature: one number a row. All numbers are those that f32 makes of them."""

    temperature: list[float]
    softcap: float | None = None
    scale: float | None = None
    divide: float | None = None
    transform_order: str = "softcap_first"

    def scales(self) -> list:
        if self.scale is not None:
            return [lambda z: z * number(self.scale)]
        return [] if self.divide is None else [lambda z: z / number(self.divide)]

    def steps(self, row: int) -> list:
        found = []
        if self.softcap is not None:
            cap = number(self.softcap)
            found.append(lambda z: fraction(real(cap) * mp.tanh(real(z) / real(cap))))
        found = [*self.scales(), *found] if self.transform_order == "scale_first" else [*found, *self.scales()]
        if self.temperature[row] != 1:
            found.append(lambda z: z / number(self.temperature[row]))
        return found

    def slope(self, row: int, z0: float):
        """Of the last logit as a function of the first. The softcap's is at the f32 that it is given."""
        if self.transform_order == "scale_first":
            for scale in self.scales():
                z0 = float(round_once(scale(Fraction(z0))))
        slope = real(1) / real(self.temperature[row])
        if self.softcap is not None:
            slope *= 1 - mp.tanh(real(z0) / real(self.softcap)) ** 2
        if self.scale is not None:
            slope *= real(self.scale)
        return slope if self.divide is None else slope / real(self.divide)


def number(x) -> Fraction:
    return Fraction(torch.tensor(x, dtype=torch.float32).item())


class Upstream(NamedTuple):
    """Of one row."""

    ids: list[int]
    d_logprobs: list[float]
    d_lse: float = 0.0
    d_entropy: float = 0.0
    d_mean_logits: float = 0.0

    def is_zero(self) -> bool:
        return not any([*self.d_logprobs, self.d_lse, self.d_entropy, self.d_mean_logits])


def real(x):
    if isinstance(x, Fraction):
        return mpmath.mpf(x.numerator) / x.denominator
    return mpmath.mpf(torch.tensor(x, dtype=torch.float32).item() if isinstance(x, float) else x)


def fraction(x) -> Fraction:
    return Fraction(*mpmath.libmp.to_rational(x._mpf_))


def first_logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> list[list[Fraction]]:
    rows, columns = hidden.double().tolist(), weight.double().tolist()
    biases = [0.0] * len(columns) if bias is None else bias.double().tolist()

    def dot(h, w, b):
        return sum((Fraction(x) * Fraction(y) for x, y in zip(h, w, strict=True)), Fraction(b))

    return [[Fraction(round_once(dot(h, w, b))) for w, b in zip(columns, biases, strict=True)] for h in rows]


def dz_of_row(
    z0: list[Fraction], row: int, transforms: Transforms, upstream: Upstream, mask: list[bool]
) -> list[float]:
    """d loss / d z0, rounded once to f32."""
    if upstream.is_zero():
        return [0.0] * len(z0)
    with mp.workdps(DIGITS):
        z = list(z0)
        for step in transforms.steps(row):
            z = [Fraction(round_once(step(x))) for x in z]
        support = [v for v, stays in enumerate(mask) if stays]
        mass = mp.fsum(mp.exp(real(z[v])) for v in support)
        p = {v: mp.exp(real(z[v])) / mass for v in support}
        entropy = -mp.fsum(x * mp.log(x) for x in p.values())
        a_sum = mp.fsum(map(real, upstream.d_logprobs))
        dz = []
        for v in range(len(z)):
            if v not in p:
                dz.append(0.0)
                continue
            a_here = mp.fsum(real(a) for t, a in zip(upstream.ids, upstream.d_logprobs, strict=True) if t == v)
            value = a_here - a_sum * p[v] + real(upstream.d_lse) * p[v]
            value += real(upstream.d_mean_logits) / len(support)
            value -= real(upstream.d_entropy) * p[v] * (mp.log(p[v]) + entropy)
            dz.append(round_once(fraction(value * transforms.slope(row, float(z0[v])))))
        return dz


def product(left: list[list[float]], right: list[list[float]], dtype: torch.dtype, buffer=None) -> torch.Tensor:
    """RN(buffer + left @ right)."""
    columns = list(zip(*right, strict=True))
    result = [
        [
            round_once(
                sum((Fraction(x) * Fraction(y) for x, y in zip(row, column, strict=True) if x), Fraction(0))
                + (0 if buffer is None else Fraction(buffer[i][k].item())),
                dtype,
            )
            for k, column in enumerate(columns)
        ]
        for i, row in enumerate(left)
    ]
    return torch.tensor(result, dtype=torch.float64).to(dtype)


def gradients(
    dz: list[list[float]],
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias_dtype: torch.dtype = torch.float32,
    dweight_buffer: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dhidden, dweight and dbias, each rounded once to the dtype of what it is the gradient of, or of the buffer."""
    columns = [list(column) for column in zip(*dz, strict=True)]
    dweight_dtype = weight.dtype if dweight_buffer is None else dweight_buffer.dtype
    ones = [[1.0]] * len(dz)
    return (
        product(dz, weight.double().tolist(), hidden.dtype),
        product(columns, hidden.double().tolist(), dweight_dtype, dweight_buffer),
        product(columns, ones, bias_dtype)[:, 0],
    )


def within_the_bound(got: torch.Tensor, dz: list[list[float]], vectors: torch.Tensor) -> bool:
    """|got - dz @ vectors| <= 2^-16 sum |dz| |vector| for each row by Euclid's norm, beside the rounding of `got`."""
    left, right = torch.tensor(dz, dtype=torch.float64), vectors.double()
    exact = left @ right
    allowed = 2.0**-16 * left.abs() @ right.norm(dim=1)
    digits = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}[got.dtype]
    rounding = (exact.abs() * 2.0**-digits + 2.0**-25).norm(dim=1)
    return bool(((got.double() - exact).norm(dim=1) <= allowed + rounding).all())
