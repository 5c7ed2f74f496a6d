"""Whose rows a call is of: the same on every rank, or each rank's own."""

import itertools
from typing import Any, NamedTuple

from torch import Tensor

from isologit.parallel._exchange import Exchange

_KINDS = ("same", "own")


def check(rows: str) -> None:
    if rows not in _KINDS:
        raise ValueError(f"rows is {rows!r}; expected 'same', where every rank has the same rows, or 'own'")


class Rows(NamedTuple):
    """counts: how many each rank has of its own; None where all have the same."""

    counts: list[int] | None
    rank: int

    def gather(self, exchange: Exchange, tensor: Any) -> Any:
        """Of a tensor [n, ...] of this rank's rows those of all."""
        if self.counts is None or not isinstance(tensor, Tensor):
            return tensor
        return exchange.tensors(tensor, self.counts)

    def gather_values(self, exchange: Exchange, tensor: Tensor) -> Tensor:
        """Of a tensor [1] or [n]: that of all rows."""
        if self.counts is None:
            return tensor
        return self.gather(exchange, tensor.expand(self.counts[self.rank]))

    def bounds(self, rows: int, size: int) -> list[int]:
        """Of each rank [bounds[r], bounds[r + 1]): its own rows; where all have the same, as many as any other."""
        if self.counts is None:
            return [rows * rank // size for rank in range(size + 1)]
        return [0, *itertools.accumulate(self.counts)]

    def own(self, tensor: Tensor) -> Tensor:
        """This rank's rows of a tensor of all."""
        if self.counts is None or tensor.numel() == 0:
            return tensor
        start = sum(self.counts[: self.rank])
        return tensor[start : start + self.counts[self.rank]]
