"""Mean and sum losses: minus the sum of f32 logprobs, rounded once (CONTRACT.md 5)."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor


def round_to_f32(value: Fraction) -> float:
    """The f32 nearest to value, ties to even; infinite beyond its range."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = float(round(magnitude / unit) * unit)  # Fraction rounds half to even; 24 bits fit into a double
    if rounded >= 2.0**128:
        rounded = math.inf
    return math.copysign(rounded, value) if rounded else 0.0


def exact_sum(values: np.ndarray) -> Fraction:
    """The sum of finite f32 numbers over the reals."""
    fractions, exponents = np.frexp(values)
    mantissas = (fractions * 2.0**24).astype(np.int64)
    total = Fraction(0)
    for exponent in np.unique(exponents):
        total += int(mantissas[exponents == exponent].sum()) * Fraction(2) ** (int(exponent) - 24)
    return total


@torch.library.custom_op("isologit::mean_loss", mutates_args=())
def mean_loss(logprobs: Tensor, target: Tensor, ignore_index: int, mean: bool) -> Tensor:
    """RN32(-sum / n) of the f32 logprobs [N] of rows whose target is not ignore_index; n their number, or 1."""
    values = logprobs.numpy()[target.numpy() != ignore_index]
    count = values.size if mean else 1
    if count >= 2**24:
        raise NotImplementedError(f"target: {count} rows that count; a mean takes fewer than 2^24")
    if count == 0:
        return logprobs.new_full((), math.nan)
    if not np.isfinite(values).all():
        return logprobs.new_full((), -float(values.sum(where=~np.isfinite(values), dtype=np.float64)))
    return logprobs.new_full((), round_to_f32(-exact_sum(values) / count))


@mean_loss.register_fake
def _(logprobs: Tensor, target: Tensor, ignore_index: int, mean: bool) -> Tensor:
    return logprobs.new_empty(())


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, bool], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.ignore_index, ctx.mean = inputs[2:]


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
    (target,) = ctx.saved_tensors
    counts = target != ctx.ignore_index
    each = -upstream / counts.sum().to(torch.float32) if ctx.mean else -upstream  # one rounding: counts below 2^24
    return torch.where(counts, each, torch.zeros_like(each)), None, None, None


mean_loss.register_autograd(_backward, setup_context=_setup)
