"""Softcap, scale or divisor, and temperature: each one rounding of the exact function of f32 numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from isologit._inputs import HeadArgs
from isologit.torch_backend import core
from isologit.torch_backend.rounding import quotient, rounded

# Functions of the device are within this share of the real ones, cos and sin within this; self_test measures them.
FUNCTION_ERROR = 2.0**-50


class Step(NamedTuple):
    """kind: "softcap", "scale" or "divide"."""

    kind: str
    number: float


def steps_of(head: HeadArgs) -> list[Step]:
    """Those of a head before the temperature, in their order, without those that change nothing."""
    softcap = [] if head.softcap is None else [Step("softcap", head.softcap)]
    factor = [Step(kind, getattr(head, kind)) for kind in ("scale", "divide") if getattr(head, kind) not in (None, 1.0)]
    return factor + softcap if head.transform_order == "scale_first" else softcap + factor


def apply(step: Step, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Of f32 z, rounded once to the type; and how many the core decided."""
    if step.kind == "scale":
        return rounded(z.double() * step.number, dtype), 0  # of 48 bits
    if step.kind == "divide":
        return divided(z, z.new_tensor(step.number), dtype), 0
    return _capped(z, step.number, dtype)


def divided(z: Tensor, divisor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return rounded(quotient(z.double(), divisor.double()), dtype)


def _capped(z: Tensor, softcap: float, dtype: torch.dtype) -> tuple[Tensor, int]:
    # The quotient's roundings, two where torch multiplies by a reciprocal, change tanh by no larger share than it.
    value = torch.tanh(z.double() / softcap) * softcap
    error = value.abs() * (FUNCTION_ERROR + 2.0**-50)
    result = rounded(value, dtype)
    open_ = (rounded(value - error, dtype) != rounded(value + error, dtype)) & z.isfinite()
    places = open_.nonzero(as_tuple=True)
    if len(places[0]):
        result[places] = core.capped(z[places], softcap, dtype)
    return result, len(places[0])
