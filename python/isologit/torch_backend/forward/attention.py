"""Attention: weighted means of values, in f64 with a bound, over blocks of keys of several sequences at a time.

With m the greatest score of a row (or its sink), weights e^(s - m) sum up to W >= 1. Errors, u = 2^-53, n keys: a
score is within E of itself (its sum, its scale, its cap); the difference s - m rounds to within |s - m| u, which in the
sum is at most ln n of W; exp is within FUNCTION_ERROR; sums of n terms in any order within n u; of weights below
2^-1000 of the greatest everything may be lost. So numerator and denominator are within delta W max|v| and delta W.

Rows with numbers that are not finite, and scores past 2^19, are the core's.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _forward_calls as calls
from isologit import _native
from isologit._torch import cuda
from isologit.torch_backend import limits
from isologit.torch_backend.forward import rows, sequences
from isologit.torch_backend.forward.rows import UNIT
from isologit.torch_backend.forward.sequences import Tile
from isologit.torch_backend.transforms import FUNCTION_ERROR

_QUERIES, _KEYS = 64, 256
_MOST_SCORE = 2.0**19


class Keys(NamedTuple):
    """Keys and values, [tokens, kv_heads, dim], or [pages, block_size, kv_heads, dim] with a block table on the CPU."""

    keys: Tensor
    values: Tensor
    block_table: Tensor | None

    def at(self, first: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of sequences [S], by their first key or row of the block table, the places [S, k]: [S, kv_heads, k, dim]."""
        if self.block_table is None:
            index: tuple[Tensor, ...] = (first[:, None] + places,)
        else:
            size = self.keys.shape[1]
            table = self.block_table.to(places.device)
            index = (table[first[:, None], places // size].to(torch.int64), places % size)
        return self.keys[index].transpose(1, 2), self.values[index].transpose(1, 2)


class Scores(NamedTuple):
    """How a score is made of a dot product."""

    scale: float
    softcap: float

    def of(self, dots: Tensor) -> Tensor:
        scores = dots * self.scale
        return torch.tanh(scores / self.softcap) * self.softcap if self.softcap else scores


def blocks(keys: range, size: int) -> Iterator[slice]:
    for first in range(keys.start, keys.stop, size):
        yield slice(first, min(first + size, keys.stop))


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    query_starts: Tensor,
    key_counts: Tensor,
    first_keys: Tensor | None,
    block_table: Tensor | None,
    sinks: Tensor | None,
    scale: float,
    softcap: float,
    causal: bool,
    window: int,
    *running: Any,
) -> Tensor:
    rows.check(q, running)
    y = q.new_empty((*q.shape[:2], values.shape[-1]))
    if running[-1] != _native.TORCH:
        lists, numbers = (query_starts, key_counts, first_keys, block_table), (rows.f32(scale), rows.f32(softcap))
        if cuda.attention(q, keys, values, lists, sinks, (*numbers, causal, window), y):
            return y
    table = None if block_table is None else block_table.cpu()
    firsts = first_keys if table is None else torch.arange(len(key_counts))
    check(q, keys, values, (query_starts, key_counts, first_keys, table), sinks, (scale, softcap, causal, window))
    if y.numel() == 0:
        return y
    listed = sequences.of(query_starts, key_counts, firsts, causal, window)
    store, scores = Keys(keys, values, table), Scores(rows.f32(scale), rows.f32(softcap))
    queries = min(_QUERIES, int(listed.query_counts.max()))
    kv_heads, dim = keys.shape[-2], max(keys.shape[-1], values.shape[-1])
    most = (limits.PRODUCTS // (q.shape[1] * queries * _KEYS), limits.OPERAND // (_KEYS * kv_heads * dim))
    together = max(1, min(most))
    for tile in sequences.tiles(listed, queries, together, q.device):
        value, error = _values(q, store, sinks, scores, tile)
        there = tile.there
        found, sure = rows.proven(value, error, q.dtype)
        for s, i in (there & ~sure.flatten(2).all(2)).nonzero().tolist():
            found[s, i] = _by_core(q, store, sinks, scores, tile, s, i)
        y[tile.tokens[there]] = found[there]
    return y


def _values(q: Tensor, store: Keys, sinks: Tensor | None, scores: Scores, tile: Tile) -> tuple[Tensor, Tensor]:
    """[S, Q, heads, value_dim] in f64, and what they may be off by."""
    kv_heads = store.keys.shape[-2]
    count, queries = tile.tokens.shape
    grouped = q[tile.tokens].double().unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)  # [S, kv, group, Q, dim]
    group = grouped.shape[2]
    own = grouped.flatten(2, 3)
    shape = (count, kv_heads, group, queries)
    top = torch.full((*shape, 1), -torch.inf, dtype=torch.float64, device=q.device)
    if sinks is not None:
        sink = sinks.double().view(1, kv_heads, group, 1, 1)
        top = top.maximum(sink)
    most_key = most_value = torch.zeros((), dtype=torch.float64, device=q.device)

    def block_of(block: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k, v = (x.double() for x in store.at(tile.first_keys, tile.places(block)))
        found = scores.of(own @ k.transpose(2, 3)).unflatten(2, (group, queries))
        return k, v, found, tile.seen(block)[:, None, None]

    for block in blocks(tile.keys, _KEYS):
        k, v, found, seen = block_of(block)
        top = top.maximum(torch.where(seen, found, -torch.inf).amax(-1, keepdim=True))
        most_key = most_key.maximum(k.norm(dim=-1).amax(-1)[..., None])
        most_value = most_value.maximum(v.abs().amax((-1, -2))[..., None])
    total = torch.zeros_like(top) if sinks is None else torch.exp(sink - top)
    sums = torch.zeros(*shape, store.values.shape[-1], dtype=torch.float64, device=q.device)
    for block in blocks(tile.keys, _KEYS):
        _, v, found, seen = block_of(block)
        weights = torch.where(seen, torch.exp(found - top), 0.0)
        total = total + weights.sum(-1, keepdim=True)
        sums = sums + (weights.flatten(2, 3) @ v).unflatten(2, (group, queries))
    most = own.norm(dim=-1) * most_key * (scores.scale * 1.001)  # [S, kv, group Q]
    of_score = 1.01 * ((store.keys.shape[-1] + 16) * UNIT * most + scores.softcap * 2.0**-48)
    # NaN is no less than the limit either; nor is a sink past it, or a score of -inf.
    usual = ((scores.softcap if scores.softcap else most) < _MOST_SCORE) & (most < 2.0**500)
    keys = len(tile.keys)
    delta = of_score + FUNCTION_ERROR + (keys + 80) * UNIT + keys * 2.0**-990
    error = torch.where(usual, 2.01 * delta * most_value, torch.inf).unflatten(2, (group, queries))[..., None]
    if sinks is not None:
        error = torch.where((sink.abs() < _MOST_SCORE) | (sink == -torch.inf), error, torch.inf)
    value = torch.where(total == 0, 0.0, sums / total)
    error = error + value.abs() * (4 * UNIT)
    return tuple(x.permute(0, 3, 1, 2, 4).flatten(2, 3) for x in (value, error.expand_as(value)))


def _by_core(q: Tensor, store: Keys, sinks: Tensor | None, scores: Scores, tile: Tile, s: int, i: int) -> Tensor:
    """One query's heads: it sees all of the keys that are handed over."""
    block = slice(int(tile.begins[s, i]), int(tile.ends[s, i]))
    k, v = (x[0].transpose(0, 1).cpu() for x in store.at(tile.first_keys[s : s + 1], tile.places(block)[s : s + 1]))
    one = q[tile.tokens[s, i]][None].cpu()
    lists = (torch.tensor([0, 1]), torch.tensor([len(k)]), None, None, rows.on_cpu(sinks))
    return calls.attention(one, k, v, *lists, scores.scale, scores.softcap, False, 0, 0, [], "")[0].to(q.device)


def check(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lists: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    sinks: Tensor | None,
    numbers: tuple[float, float, bool, int],
) -> None:
    """What the core says of one token of these heads, types and numbers; and of the lists."""
    one = [torch.zeros(1, *x.shape[-2:], dtype=x.dtype) for x in (q, keys, values)]
    calls.attention(*one, torch.tensor([0, 1]), torch.tensor([1]), None, None, rows.on_cpu(sinks), *numbers, 0, [], "")
    starts, counts, firsts, table = (None if x is None else x.cpu().to(torch.int64) for x in lists)
    tokens = keys.shape[0] if table is None else table.shape[1] * keys.shape[1]
    firsts = (counts.cumsum(0) - counts if firsts is None else firsts) if table is None else torch.zeros_like(counts)
    if keys.shape[:-1] != values.shape[:-1]:
        raise ValueError(f"values: {list(values.shape)}; expected the tokens and heads of keys, {list(keys.shape)}")
    if int(starts[0]) != 0 or int(starts[-1]) != q.shape[0] or bool((starts.diff() < 0).any()):
        raise ValueError(f"query_starts: {starts.tolist()}; expected ascending numbers from 0 to {q.shape[0]}")
    for s in ((counts < 0) | (firsts < 0) | (firsts + counts > tokens)).nonzero()[:1, 0].tolist():
        raise ValueError(f"key_counts[{s}]: {int(counts[s])} keys from {int(firsts[s])} on; there are {tokens}")
    if table is not None:
        used = torch.arange(table.shape[1]) * keys.shape[1] < counts[:, None]
        for s, b in (used & ((table < 0) | (table >= keys.shape[0]))).nonzero()[:1].tolist():
            raise ValueError(f"block_table[{s}, {b}]: {int(table[s, b])}; expected 0 to {keys.shape[0] - 1}")
