"""isologit::sequences: which tokens of a batch are sequences, told by what Transformers gives to its attention."""

import torch
from torch import Tensor

from isologit import _numbers
from isologit._torch.schema import operator


def sequences(
    mask: Tensor | None, positions: Tensor | None, batch: int, queries: int, keys: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """query_starts, key_counts and first_keys of forward.attention for rows of `keys` keys, `step` tokens apart.

    mask [batch, keys]: 0 where there is padding, before or after what is real. Queries of padding see what their place
    lets them. positions [1, queries], of a batch of one row without padding: a sequence begins where they do not go on.
    There are as many sequences as positions or else rows; those that are left over are empty.
    """
    run = _sequences if _numbers.traced() else _made
    return run(mask, positions, batch, queries, keys, step)


def _made(mask: Tensor | None, positions: Tensor | None, *sizes: int) -> tuple[Tensor, Tensor, Tensor]:
    """On the device of mask or positions: found on the CPU."""
    there = next((x.device for x in (positions, mask) if x is not None), torch.device("cpu"))
    found = _find(*(None if x is None else x.cpu() for x in (mask, positions)), *sizes)
    return tuple(x.to(there) for x in found)


def _find(
    mask: Tensor | None, positions: Tensor | None, batch: int, queries: int, keys: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    if positions is not None and (mask is None or bool(mask.all())):
        return _packed(positions.reshape(-1), queries)
    count = _count(positions, batch, queries)
    starts = torch.full((count + 1,), batch * queries)
    counts, firsts = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    starts[: batch + 1] = torch.arange(batch + 1) * queries
    begins = torch.zeros(batch, dtype=torch.int64) if mask is None else _begins(mask, queries, keys)
    counts[:batch], firsts[:batch] = keys - begins, torch.arange(batch) * step + begins
    return starts, counts, firsts


def _begins(mask: Tensor, queries: int, keys: int) -> Tensor:
    """The first real token of each row. Past the last there may be padding, but not what a cache has yet to hold."""
    real = mask != 0
    if mask.shape[1] == keys:
        first = real.int().argmax(1)
        last = keys - 1 - real.flip(1).int().argmax(1)
        together = real.sum(1) == last - first + 1
        if bool((together & ((last == keys - 1) | (queries == keys))).all()):
            return first
    raise NotImplementedError(
        f"attention_mask: {real.sum(1).tolist()} of {mask.shape[1]} tokens for {queries} queries and {keys} keys; "
        "expected tokens side by side, with padding before or after them, and a cache that is as long as they are"
    )


def _packed(positions: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    starts = torch.full((queries + 1,), queries)
    begins = torch.cat([positions.new_ones(1, dtype=torch.bool), positions[1:] != positions[:-1] + 1]).nonzero()[:, 0]
    starts[: begins.shape[0]] = begins
    return starts, starts.diff(), starts[:-1].clone()


def _count(positions: Tensor | None, batch: int, queries: int) -> int:
    return batch if positions is None else max(queries, batch)


def _fake(
    mask: Tensor | None, positions: Tensor | None, batch: int, queries: int, keys: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    like = mask if positions is None else positions
    count = _count(positions, batch, queries)
    of = torch.empty if like is None else like.new_empty
    return tuple(of((size,), dtype=torch.int64) for size in (count + 1, count, count))


_sequences = operator(
    "sequences",
    "(Tensor? mask, Tensor? positions, SymInt batch, SymInt queries, SymInt keys, SymInt step) -> (Tensor, Tensor, "
    "Tensor)",
    _made,
    _fake,
)
