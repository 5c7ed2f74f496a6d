"""Gates. Those with an exponential are (u + shift) g s, s = 1 / (1 + e^-z), z = g, alpha g or the polynomial of
tanh-GELU: tanh(z / 2) is 2 s - 1. s is made of e^-|z|, so nothing overflows; where that is 0, s is 0 or 1."""

import math
from typing import Any

import torch
from torch import Tensor

from isologit import _forward_calls as calls
from isologit import _native
from isologit._torch import cuda
from isologit.torch_backend.forward import rows
from isologit.torch_backend.forward.rows import UNIT
from isologit.torch_backend.rounding import rounded
from isologit.torch_backend.transforms import FUNCTION_ERROR

_CUBIC = float.fromhex("0x1.6e4e26p-5")  # 0.044715 in f32
_FACTOR = 2 * math.sqrt(2 / math.pi)


def gate(g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float, *running: Any) -> Tensor:
    rows.check(g, running)
    alpha, limit = rows.f32(alpha), rows.f32(limit)
    y = torch.empty(g.shape, dtype=g.dtype, device=g.device)
    if running[-1] != _native.TORCH and cuda.gate(g, up, kind, alpha, limit, y):
        return y
    _by_core(torch.zeros(1, 1), None, kind, alpha, limit)  # says what is wrong with the numbers
    size = g.shape[-1]
    flat, ups, to = g.reshape(-1, size), None if up is None else up.reshape(-1, size), y.view(-1, size)
    for part in rows.slices(len(flat), size):
        here, beside = flat[part], None if ups is None else ups[part]
        value, error = _values(here.double(), None if beside is None else beside.double(), kind, alpha, limit)

        def by_core(open_: Tensor, here: Tensor = here, beside: Tensor | None = beside) -> Tensor:
            return _by_core(rows.on_cpu(here, open_), rows.on_cpu(beside, open_), kind, alpha, limit)

        to[part] = rows.finished(value, error, g.dtype, by_core)
    return y


def _by_core(g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float) -> Tensor:
    return calls.gate(g, up, kind, alpha, limit, 0, [], "")


def _values(g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float) -> tuple[Tensor, Tensor]:
    # Limits at infinity are the core's.
    strange = ~g.isfinite() if up is None else ~(g.isfinite() & up.isfinite())
    if kind == "relu_squared":
        g = g.clamp(min=0)
        value, share = g * g * (1.0 if up is None else up), torch.where(strange, torch.inf, 2 * UNIT)
        return value, value.abs() * share
    g, up, shift = _clamped(g, up, kind, limit)
    z, doubt = _exponent(g, kind, alpha)
    value = g * _sigmoid(z)
    if up is not None:
        value = value * (up + shift)
    # Of z a share of `doubt` is one of |z| of e^-z; four roundings, one of them of up + shift.
    share = FUNCTION_ERROR + 8 * UNIT + z.abs().clamp(max=1000) * doubt
    return value, value.abs() * torch.where(strange, torch.inf, share)


def _clamped(g: Tensor, up: Tensor | None, kind: str, limit: float) -> tuple[Tensor, Tensor | None, float]:
    """NaN stays."""
    if kind != "clamped_swish":
        return g, up, 0.0
    g = torch.where(g > limit, limit, g)
    return (g, None, 0.0) if up is None else (g, torch.where(up.abs() > limit, up.sign() * limit, up), 1.0)


def _exponent(g: Tensor, kind: str, alpha: float) -> tuple[Tensor, float]:
    """z, and the share of it that its roundings may be."""
    if kind == "gelu_tanh":
        return _FACTOR * (g + _CUBIC * (g * g * g)), 8 * UNIT
    return (g if kind == "silu" else alpha * g), 0.0  # a product of two f32


def _sigmoid(z: Tensor) -> Tensor:
    e = torch.exp(-z.abs())
    return torch.where(z < 0, e, 1.0) / (1 + e)


def gate_backward(
    g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float, dy: Tensor, wanted: list[bool], *running: Any
) -> tuple[Tensor, Tensor]:
    """dg = dy (u + shift) (s + g z' s (1 - s)), du = dy g s; past a clamp nothing."""
    size = g.shape[-1]
    alpha, limit = rows.f32(alpha), rows.f32(limit)
    operands = [None if x is None else x.reshape(-1, size) for x in (g, up, dy)]
    dgate, dup = rows.like(g, wanted[0], g), rows.like(up, wanted[1], g)
    for part in rows.slices(len(operands[0]), size):
        x, u, upstream = (None if x is None else x[part].double() for x in operands)
        of_gate, of_up = _gradients(x, u, upstream, kind, alpha, limit)
        if wanted[0]:
            dgate.view(-1, size)[part] = rounded(of_gate, g.dtype)
        if wanted[1]:
            dup.view(-1, size)[part] = rounded(of_up, g.dtype)
    return dgate, dup


def _gradients(
    g: Tensor, up: Tensor | None, dy: Tensor, kind: str, alpha: float, limit: float
) -> tuple[Tensor, Tensor]:
    if kind == "relu_squared":
        g = g.clamp(min=0)
        return 2 * g * dy * (1.0 if up is None else up), g * g * dy
    inside, clamped_up, shift = _clamped(g, up, kind, limit)
    z, _ = _exponent(inside, kind, alpha)
    s = _sigmoid(z)
    slope = _FACTOR * (1 + 3 * _CUBIC * inside * inside) if kind == "gelu_tanh" else alpha if kind != "silu" else 1.0
    u = 1.0 if clamped_up is None else clamped_up + shift
    dgate = dy * u * (s + inside * s * slope * (1 - s))
    dup = dy * (inside * s)
    if kind == "clamped_swish":
        dgate = torch.where(g > limit, 0.0, dgate)
        if up is not None:
            dup = torch.where(up.abs() > limit, 0.0, dup)
    return dgate, dup
