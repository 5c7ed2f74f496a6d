"""Rotary embeddings: pairs turned by a = position * frequency, over the reals.

a is known as a sum of two f64, and its distance from the nearest multiple of 2 pi to within 2^-50: 2 pi is taken in
four parts of 24 bits, whose products with the number of turns, below 2^29, are exact. What they leave of 2 pi is below
2^-93, of all turns below 2^-64; the last addition loses 2^-52. So cosines and sines are within that and the device's
own error, which self_test measures.
"""

import math
from typing import Any

import torch
from torch import Tensor

from isologit import _forward_calls as calls
from isologit import _native
from isologit._torch import cuda
from isologit.torch_backend import limits
from isologit.torch_backend.forward import rows
from isologit.torch_backend.rounding import two_sum

# 2 pi, from above to below.
_TWO_PI = (0xC90FDA * 2.0**-21, 0xA22168 * 2.0**-45, 0xC234C4 * 2.0**-69, 0xC6628B * 2.0**-93)
_ERROR = 2.0**-48  # of a cosine or sine, and of the roundings after it, as a share of the pair's magnitudes


def rotary(x: Tensor, positions: Tensor, frequencies: Tensor, layout: str, factor: float, *running: Any) -> Tensor:
    rows.check(x, running)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if running[-1] != _native.TORCH and cuda.rotary(x, positions, frequencies, layout, rows.f32(factor), y):
        return y
    heads, pairs = x.reshape(-1, *x.shape[-2:]), frequencies.shape[0]
    to, places = y.view(heads.shape), positions.reshape(-1)
    _check(heads, places, frequencies, factor)
    factor = rows.f32(factor)
    for part in limits.slices(len(heads), limits.PRODUCTS // max(1, heads.shape[1] * heads.shape[2])):
        first, second = _halves(heads[part], pairs, layout)
        cosine, sine, still = turns(places[part], frequencies)
        size = torch.where(still, 0.0, first.abs() + second.abs()) * abs(factor) * _ERROR
        ends = (factor * (first * cosine - second * sine), factor * (second * cosine + first * sine))
        value, error = _whole(*ends, layout), _whole(size, size, layout)
        # Of a whole head all is made by the core, or nothing.
        flat, given = value.flatten(0, 1), heads[part].flatten(0, 1)
        owners = places[part].repeat_interleave(heads.shape[1])

        def by_core(open_: Tensor, given: Tensor = given, owners: Tensor = owners) -> Tensor:
            some = rows.on_cpu(given, open_)[:, None]
            of = (owners[open_].cpu(), frequencies.cpu(), layout, factor, 0, [], "")
            return calls.rotary(some, *of)[:, 0, : 2 * pairs]

        made = rows.finished(flat, error.flatten(0, 1), x.dtype, by_core)
        to[part, :, : 2 * pairs] = made.view(value.shape)
        to[part, :, 2 * pairs :] = _canonical(heads[part, :, 2 * pairs :])
    return y


def turns(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines and sines [n, 1, pairs], and which angles are 0."""
    # A position is below 2^31 and a frequency has 24 bits: each half's product is exact.
    p = positions[:, None, None].to(torch.int64)
    f = frequencies.double()
    upper, lower = (p >> 16 << 16).double() * f, (p & 0xFFFF).double() * f
    high, low = two_sum(upper, lower)
    count = torch.round(high / (2 * math.pi))
    for part in _TWO_PI:
        high, lost = two_sum(high, -count * part)
        low = low + lost
    angle = high + low
    return torch.cos(angle), torch.sin(angle), (p == 0) | (f == 0)


def _halves(x: Tensor, pairs: int, layout: str) -> tuple[Tensor, Tensor]:
    x = x[..., : 2 * pairs].double()
    return (x[..., :pairs], x[..., pairs:]) if layout == "halves" else (x[..., ::2], x[..., 1::2])


def _whole(first: Tensor, second: Tensor, layout: str) -> Tensor:
    return torch.cat([first, second], -1) if layout == "halves" else torch.stack([first, second], -1).flatten(-2)


def _canonical(x: Tensor) -> Tensor:
    return torch.where(x.isnan(), torch.nan, x + 0.0)


def _check(x: Tensor, positions: Tensor, frequencies: Tensor, factor: float) -> None:
    """What the core says of one token of the shape, of all frequencies, and of the first position that is wrong."""
    wrong = ((positions < 0) | (positions >= 2**31)).nonzero()[:1, 0].tolist()
    for place in wrong:
        raise ValueError(f"positions[{place}]: {int(positions[place])}; expected 0 to 2147483647")
    one = torch.zeros(1, 1, x.shape[2])
    calls.rotary(one, torch.zeros(1, dtype=torch.int64), frequencies.cpu(), "halves", factor, 0, [], "")
