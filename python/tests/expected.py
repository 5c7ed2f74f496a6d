"""What the contract says, by means that share nothing with the library: rational arithmetic, and float64."""

import math
from fractions import Fraction

import numpy as np
import torch

# Digits that are kept of a result: what is rounded once, to nearest, ties to even.
FORMATS = {torch.float32: (24, -126, 128), torch.bfloat16: (8, -126, 128), torch.float16: (11, -14, 16)}


def round_once(value: Fraction, dtype: torch.dtype = torch.float32) -> float:
    digits, least_exponent, overflow = FORMATS[dtype]
    if value == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(value.numerator)) - math.log2(value.denominator))
    exponent += (abs(value) >= Fraction(2) ** (exponent + 1)) - (abs(value) < Fraction(2) ** exponent)
    unit = Fraction(2) ** (max(exponent, least_exponent) - digits + 1)
    steps = round(value / unit)
    if abs(steps * unit) >= Fraction(2) ** overflow:
        return math.copysign(math.inf, value)
    return float(steps * unit) if steps else 0.0


def logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    transforms=(),
) -> torch.Tensor:
    """transforms: functions of a rational number; each result but the last is rounded to f32."""
    rows, columns = hidden.double().tolist(), weight.double().tolist()
    biases = [0.0] * len(columns) if bias is None else bias.double().tolist()

    def one(h, w, b):
        z = sum((Fraction(x) * Fraction(y) for x, y in zip(h, w, strict=True)), Fraction(b))
        for transform in transforms:
            z = transform(Fraction(round_once(z)))
        return round_once(z, dtype)

    return torch.tensor([[one(h, w, b) for w, b in zip(columns, biases, strict=True)] for h in rows], dtype=dtype)


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """By float64, where z_t - lse cancels at most a few digits: good for tests to compare with after rounding."""
    return torch.log_softmax(logits.double(), dim=-1)


def nearly_a_tie(values: torch.Tensor) -> torch.Tensor:
    """Where an f64 value, wrong by up to 2^-45 of itself or 2^-48, could round to either of two f32."""
    doubt = values.abs() * 2.0**-45 + 2.0**-48
    return (values - doubt).float() != (values + doubt).float()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[one.element_size()]
    views = [x.contiguous().view(torch.uint8).numpy().view(kind) for x in (one.reshape(-1), other.reshape(-1))]
    return bool(np.array_equal(*views))
