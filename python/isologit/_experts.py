"""Experts by CONTRACT.md 10, whoever holds their weights: what each makes of the tokens that chose it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isologit import forward


def outputs(x: Tensor, chosen: Tensor, expert: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """[tokens, experts of a token, dim], of x [tokens, dim] and chosen [tokens, experts of a token]; expert(rows, *its
    parameters), of parameters [experts, ...]. Of a chosen one past the last: zeros."""
    order = chosen.reshape(-1).argsort(stable=True)
    rows = forward.spread(x, chosen.shape[1]).flatten(0, 1)[order]
    counts = chosen.reshape(-1).bincount(minlength=parameters[0].shape[0] + 1).tolist()
    *parts, not_here = rows.split(counts)
    own = zip(parts, *(parameter.unbind() for parameter in parameters), strict=True)
    made = [expert(rows, *of_one) for rows, *of_one in own if rows.shape[0] > 0]
    if not_here.shape[0] > 0:
        made.append(torch.zeros_like(not_here))
    return torch.cat(made)[order.argsort()].unflatten(0, chosen.shape)


def gated(kind: str, **running: Any) -> Callable[..., Tensor]:
    """An expert of gate_up [2 size, dim] and down [dim, size]."""

    def expert(rows: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = forward.linear(rows, gate_up, **running).chunk(2, dim=-1)
        return forward.linear(forward.gate(gate, up, kind=kind, **running), down, **running)

    return expert


def clamped(alpha: float, limit: float, **running: Any) -> Callable[..., Tensor]:
    """gpt-oss's: gate and up in turns, and biases."""

    def expert(rows: Tensor, gate_up: Tensor, bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        both = forward.linear(rows, gate_up, bias, **running)
        options = {"kind": "clamped_swish", "alpha": alpha, "limit": limit}
        product = forward.gate(both[..., ::2], both[..., 1::2], **options, **running)
        return forward.linear(product, down, down_bias, **running)

    return expert
