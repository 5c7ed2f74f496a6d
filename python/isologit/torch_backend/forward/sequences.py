"""The sequences of an attention, and tiles of them: some sequences, a block of each one's queries, with blocks of keys.

What a query sees is a run of keys. Sequences are looked at together, each from its own first key on, so that no
sequence shows in the bits of another.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """Lists on the CPU, of int64, of the sequences that have queries."""

    first_queries: Tensor
    query_counts: Tensor
    key_counts: Tensor
    first_keys: Tensor  # or numbers of rows of the block table
    causal: bool
    window: int


class Tile(NamedTuple):
    """S sequences, Q queries of each: on the operands' device.

    tokens [S, Q]: of the queries, or any where there is none. there [S, Q]: whether there is one. begins, ends [S, Q]:
    which keys it sees, counted from its sequence's first. keys: which any of them sees."""

    tokens: Tensor
    there: Tensor
    begins: Tensor
    ends: Tensor
    first_keys: Tensor  # [S]
    key_counts: Tensor  # [S]
    keys: range

    def seen(self, block: slice) -> Tensor:
        """[S, Q, k] of a block of keys."""
        numbers = torch.arange(block.start, block.stop, device=self.begins.device)
        return (numbers >= self.begins[:, :, None]) & (numbers < self.ends[:, :, None])

    def places(self, block: slice) -> Tensor:
        """[S, k]: where a block of keys lies, those past a sequence's last being its last."""
        numbers = torch.arange(block.start, block.stop, device=self.begins.device)
        return torch.minimum(numbers, (self.key_counts[:, None] - 1).clamp(min=0))


def of(query_starts: Tensor, key_counts: Tensor, first_keys: Tensor | None, causal: bool, window: int) -> Sequences:
    """first_keys: None for sequences that lie one after another."""
    starts, counts = (x.cpu().to(torch.int64) for x in (query_starts, key_counts))
    first = counts.cumsum(0) - counts if first_keys is None else first_keys.cpu().to(torch.int64)
    has = starts.diff() > 0
    return Sequences(starts[:-1][has], starts.diff()[has], counts[has], first[has], causal, window)


def tiles(sequences: Sequences, queries: int, together: int, device: torch.device) -> Iterator[Tile]:
    """`queries` of each of up to `together` sequences."""
    counts = sequences.query_counts
    for first in range(0, int(counts.max()) if len(counts) else 0, queries):
        chosen = (counts > first).nonzero()[:, 0]
        for some in chosen.split(together):
            yield _tile(sequences, some, torch.arange(first, first + queries), device)


def _tile(sequences: Sequences, chosen: Tensor, numbers: Tensor, device: torch.device) -> Tile:
    counts, keys = sequences.query_counts[chosen, None], sequences.key_counts[chosen, None]
    there = numbers < counts
    tokens = sequences.first_queries[chosen, None] + torch.minimum(numbers, counts - 1)
    position = keys - counts + numbers  # of the key that is the query's own
    ends = (position + 1).clamp(min=0) if sequences.causal else keys.expand_as(position)
    begins = (position - sequences.window + 1).clamp(min=0) if sequences.window > 0 else torch.zeros_like(position)
    begins, ends = (torch.where(there, x, 0) for x in (torch.minimum(begins, ends), ends))
    sees = ends > begins
    seen = range(int(begins[sees].min()), int(ends[sees].max())) if bool(sees.any()) else range(0)
    lists = (tokens, there, begins, ends, sequences.first_keys[chosen], keys[:, 0])
    return Tile(*(x.to(device) for x in lists), seen)
