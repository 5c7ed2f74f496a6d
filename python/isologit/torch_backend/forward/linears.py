"""Sums of products, each rounded once: linears, sums of experts, residuals; and gradients of embeddings.

Linears are logits (products.py). Sums over experts are a few terms, at once in pairs of f64. Residuals are three
numbers: their sum is known as a high and a low part.
"""

from typing import Any

import torch
from torch import Tensor

from isologit import _forward_calls as calls
from isologit import _native
from isologit._torch import cuda
from isologit.torch_backend import blocks, core, folds, limits, products
from isologit.torch_backend.forward import rows
from isologit.torch_backend.rounding import odd_pair, rounded, two_sum


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *running: Any) -> Tensor:
    rows.check(x, running)
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    if y.numel():
        _products(x.reshape(-1, x.shape[-1]), weight, bias, y.view(-1, weight.shape[0]), running)
    return y


def linear_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, wanted: list[bool], *running: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """dy W, dy^T x, and dy^T of ones, each rounded once."""
    operands = zip((x, weight, bias), wanted, strict=True)
    dx, dweight, dbias = (rows.like(operand, wants, x) for operand, wants in operands)
    flat, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, weight.shape[0])
    if wanted[0]:
        _products(dy, weight.t(), None, dx.view(flat.shape), running)
    if wanted[1]:
        _products(dy.t(), flat.t(), None, dweight, running)
    if wanted[2]:
        _products(dy.t(), dy.new_ones(1, dy.shape[0]), None, dbias.view(-1, 1), running)
    return dx, dweight, dbias


def _products(left: Tensor, right: Tensor, bias: Tensor | None, to: Tensor, running: tuple[Any, ...]) -> None:
    """left right^T + bias, rounded once to the type of `to`; by the CUDA library, if it is not for kernel "torch"."""
    if to.numel() == 0 or left.shape[1] == 0:
        to.zero_()
        return
    if running[-1] != _native.TORCH and cuda.linear(left, right, bias, to):
        return
    blocks.all_logits(core.head_of(left, right, bias), left, [], to, blocks.Counter())


def combine(x: Tensor, weights: Tensor, *running: Any) -> Tensor:
    rows.check(x, running)
    y = x.new_empty((*x.shape[:-2], x.shape[-1]))
    if y.numel() == 0:
        return y
    count, dim = x.shape[-2:]
    terms, shares, flat = x.reshape(-1, count, dim), weights.reshape(-1, count), y.view(-1, dim)
    for part in limits.slices(len(flat), limits.PAIRS // ((count + 1) * dim)):
        flat[part] = _combined(terms[part], shares[part], y.dtype)
    return y


def _combined(terms: Tensor, shares: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, dim] of [n, experts, dim] and [n, experts]."""
    count, dim = len(terms), terms.shape[2]
    columns = products.Rows.of(terms.transpose(1, 2).reshape(count * dim, -1))
    own = products.Rows.of(shares)
    v = torch.arange(count * dim, device=terms.device)
    n = v // dim
    found, decided = products.by_pairs(own, columns, None, n, v, own.norm[n] * columns.norm, dtype)
    left = (~decided).nonzero()[:, 0]
    if len(left):
        found[left] = core.logits_of_pairs(shares, columns.given, None, n[left], left, dtype)
    return found.view(count, dim)


def combine_backward(
    x: Tensor, weights: Tensor, dy: Tensor, wanted: list[bool], *running: Any
) -> tuple[Tensor, Tensor]:
    """dx is one product; dweights a sum over dim."""
    dx, dweights = rows.none_like(x, x), rows.none_like(weights, x)
    upstream = dy.double().unsqueeze(-2)
    if wanted[0]:
        dx = rounded(weights.double().unsqueeze(-1) * upstream, x.dtype)
    if wanted[1]:
        dweights = rounded(folds.tree_sum((x.double() * upstream).flatten(0, -2)).view(weights.shape), weights.dtype)
    return dx, dweights


def residual(x: Tensor, a: Tensor, b: Tensor | None, multiplier: float, *running: Any) -> Tensor:
    """multiplier a is exact in f64. Of three terms, two additions lose two numbers, whose sum is a number and next to
    nothing (dust): what stands behind `high` is less than its last bit, and its sign is all that rounding asks for."""
    rows.check(x, running)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if running[-1] != _native.TORCH and cuda.residual(x, a, b, rows.f32(multiplier), y):
        return y
    calls.residual(*(torch.zeros(1, 1),) * 2, None, multiplier, 0, [], "")  # says what is wrong with the number
    first, second = x.double(), a.double() * rows.f32(multiplier)
    high, low = two_sum(first, second)
    total = first + second
    if b is not None:
        high, lost = two_sum(high, b.double())
        lost, dust = two_sum(low, lost)
        high, low = two_sum(high, lost)
        total, low = total + b, low + dust
    return rounded(torch.where(high.isfinite(), odd_pair(high, low), total), x.dtype)


def embedding_backward(ids: Tensor, weight: Tensor, padding_id: int, dy: Tensor) -> Tensor:
    """Sums in f64 over the tokens of an id, neighbours first, then neighbours of these: no other token shows."""
    ids, order = ids.reshape(-1).sort(stable=True)
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[1:] = ids[1:] != ids[:-1]
    dweight = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    if len(ids) == 0:
        return dweight
    runs = begins.cumsum(0) - 1
    starts = begins.nonzero()[:, 0]
    longest = int(runs.bincount().max())
    upstream, kept = dy.reshape(-1, weight.shape[1]), ids[starts] != padding_id
    for columns in limits.slices(weight.shape[1], limits.OPERAND // len(ids)):
        sums = upstream[order, columns].double()
        step = 1
        while step < longest:
            other = torch.nn.functional.pad(sums[step:], (0, 0, 0, step))
            together = torch.nn.functional.pad(runs[step:], (0, step), value=-1) == runs
            sums = torch.where(together[:, None], sums + other, sums)
            step *= 2
        dweight[ids[starts[kept]], columns] = rounded(sums[starts[kept]], weight.dtype)
    return dweight
