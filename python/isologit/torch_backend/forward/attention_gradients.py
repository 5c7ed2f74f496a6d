"""Gradients of attention, in f64: with p the weights, a = dy v, D = sum of p a,

    dv = sum of p dy, ds = scale slope p (a - D), dq = sum of ds k, dk = sum of ds q, dsink = -sum of p_sink D,

slope that of the softcap. All products are of one shape, blocks of a sequence's keys begin at its first, and sums over
them go in their order; so dq depends on its own query and what that sees, dk and dv on the queries that see them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit.torch_backend import folds, limits
from isologit.torch_backend.forward import alike, attention, rows, sequences
from isologit.torch_backend.forward.attention import Keys, Scores
from isologit.torch_backend.forward.sequences import Tile
from isologit.torch_backend.rounding import rounded

_QUERIES, _KEYS = 32, 64


class _Sums(NamedTuple):
    """What is wanted: dq and dsinks of each token [tokens, heads, dim or 1], dkeys and dvalues [tokens, kv_heads, dim],
    in f64."""

    q: Tensor
    keys: Tensor
    values: Tensor
    sinks: Tensor


def attention_backward(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    query_starts: Tensor,
    key_counts: Tensor,
    first_keys: Tensor | None,
    sinks: Tensor | None,
    scale: float,
    softcap: float,
    causal: bool,
    window: int,
    dy: Tensor,
    wanted: list[bool],
    *running: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lists = (query_starts, key_counts, first_keys, None)
    attention.check(q, keys, values, lists, sinks, (scale, softcap, causal, window))
    _check_apart(key_counts, first_keys)
    shapes = (q.shape, keys.shape, values.shape, (*q.shape[:2], 1))
    sums = _Sums(*(torch.zeros(shape, dtype=torch.float64, device=q.device) for shape in shapes))
    scores = Scores(rows.f32(scale), rows.f32(softcap))
    together = max(1, limits.PRODUCTS // (q.shape[1] * _KEYS * max(_KEYS, q.shape[2], values.shape[2])))
    listed = sequences.of(query_starts, key_counts, first_keys, causal, window)
    for tile in sequences.tiles(listed, _QUERIES, together, q.device):
        _Tile(q, Keys(keys, values, None), sinks, scores, dy, tile).add_to(sums)
    found = [sums.q, sums.keys, sums.values, folds.tree_sum(sums.sinks[..., 0].T)[:, 0]]
    results = []
    for total, operand, wants in zip(found, (q, keys, values, sinks), wanted, strict=True):
        results.append(rounded(total, operand.dtype) if wants else rows.none_like(operand, q))
    return tuple(results)


def _check_apart(key_counts: Tensor, first_keys: Tensor | None) -> None:
    if first_keys is None:
        return
    firsts, counts = first_keys.cpu(), key_counts.cpu()
    firsts, order = firsts[counts > 0].sort()
    ends = firsts + counts[counts > 0][order]
    for key in firsts[1:][firsts[1:] < ends[:-1]][:1].tolist():
        raise NotImplementedError(f"first_keys: key {key} is of two sequences; expected sequences apart")


class _Tile:
    """Pairs of a sequence and a head: P = S heads of them."""

    def __init__(
        self, q: Tensor, store: Keys, sinks: Tensor | None, scores: Scores, dy: Tensor, tile: Tile
    ) -> None:
        self.store, self.scores, self.tile = store, scores, tile
        self.heads, self.kv_heads = q.shape[1], store.keys.shape[1]
        self.q, self.dy = (self._of_tokens(x) for x in (q, dy))
        self.sink = None if sinks is None else sinks.double().repeat(len(tile.tokens))[:, None, None]
        # From the sequence's first key on, so that a block's bounds are those of any other tile.
        self.blocks = list(attention.blocks(range(tile.keys.start // _KEYS * _KEYS, tile.keys.stop), _KEYS))
        self.blocks = [slice(block.start, block.start + _KEYS) for block in self.blocks]

    def _of_tokens(self, x: Tensor) -> Tensor:
        """[P, Q, dim]."""
        return x[self.tile.tokens].double().transpose(1, 2).flatten(0, 1)

    def _block(self, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [P, k, dim], and which are seen [P, Q, k]."""
        group = self.heads // self.kv_heads
        found = self.store.at(self.tile.first_keys, self.tile.places(block))
        k, v = (x.double().repeat_interleave(group, 1).flatten(0, 1) for x in found)
        return k, v, self.tile.seen(block).repeat_interleave(self.heads, 0)

    def _scores(self, k: Tensor, seen: Tensor) -> Tensor:
        return torch.where(seen, self.scores.of(alike.multiply(self.q, k.transpose(1, 2))), -torch.inf)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """[P, Q, 1]: the greatest score, the sum of weights, and D."""
        shape = (*self.q.shape[:2], 1)
        top = self.q.new_full(shape, -torch.inf) if self.sink is None else self.sink.expand(shape)
        for block in self.blocks:
            k, _, seen = self._block(block)
            top = top.maximum(self._scores(k, seen).amax(-1, keepdim=True))
        top = torch.where(top == -torch.inf, 0.0, top)  # of a query that sees nothing
        total = torch.zeros_like(top)
        along = torch.zeros_like(top)
        for block in self.blocks:
            k, v, seen = self._block(block)
            weights = torch.exp(self._scores(k, seen) - top)
            products = torch.where(seen, alike.multiply(self.dy, v.transpose(1, 2)), 0.0)
            total = total + _sum(weights)
            along = along + _sum(weights * products)
        if self.sink is not None:
            total = total + torch.exp(self.sink - top)
        total = torch.where(total == 0, 1.0, total)
        return top, total, along / total

    def add_to(self, sums: _Sums) -> None:
        top, total, along = self._weights()
        dq = torch.zeros_like(self.q)
        for block in self.blocks:
            k, v, seen = self._block(block)
            scores = self._scores(k, seen)
            p = torch.exp(scores - top) / total
            products = torch.where(seen, alike.multiply(self.dy, v.transpose(1, 2)), 0.0)
            ds = p * (products - along) * self.scores.scale
            if self.scores.softcap:
                t = torch.where(seen, scores, 0.0) / self.scores.softcap
                ds = ds * ((1 - t) * (1 + t))
            p, ds = (torch.where(seen, x, 0.0) for x in (p, ds))
            dq = dq + _masked(ds, k)
            self._add_to_keys(sums.keys, block, _masked(ds.transpose(1, 2), self.q))
            self._add_to_keys(sums.values, block, _masked(p.transpose(1, 2), self.dy))
        self._put(sums.q, dq)
        if self.sink is not None:
            self._put(sums.sinks, -(torch.exp(self.sink - top) / total) * along)

    def _put(self, to: Tensor, of_pairs: Tensor) -> None:
        there = self.tile.there
        to[self.tile.tokens[there]] = of_pairs.unflatten(0, (-1, self.heads)).transpose(1, 2)[there]

    def _add_to_keys(self, to: Tensor, block: slice, of_pairs: Tensor) -> None:
        """The heads of a kv head one after another."""
        of_heads = of_pairs.unflatten(0, (-1, self.kv_heads, self.heads // self.kv_heads))
        total = of_heads[:, :, 0]
        for head in range(1, of_heads.shape[2]):
            total = total + of_heads[:, :, head]
        numbers = torch.arange(block.start, block.stop, device=to.device)
        real = numbers < self.tile.key_counts[:, None]
        to[(self.tile.first_keys[:, None] + numbers)[real]] += total.transpose(1, 2)[real]


def _sum(x: Tensor) -> Tensor:
    return folds.tree_sum(x.flatten(0, 1)).view(*x.shape[:2], 1)


def _masked(left: Tensor, right: Tensor) -> Tensor:
    """left right; what is not finite in `right` makes NaN only where left is not 0."""
    strange = ~right.isfinite().all(-1)
    found = alike.multiply(left, torch.where(strange[..., None], 0.0, right))
    touched = ((left != 0) & strange[:, None]).any(-1, keepdim=True)
    return torch.where(touched, torch.nan, found)
