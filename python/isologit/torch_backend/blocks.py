"""Logits of a head, block by block: what fits into the memory that limits allows, the weight read where it lies, which
may be on several devices."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from isologit._inputs import HeadArgs
from isologit._support import SupportArgs
from isologit.torch_backend import limits, products, transforms
from isologit.torch_backend.limits import slices
from isologit.torch_backend.transforms import Step

MOST_ROWS = 1024


class Counter:
    """How many logits the core decided."""

    def __init__(self) -> None:
        self.fallbacks = 0

    def add(self, result: tuple[Tensor, int]) -> Tensor:
        self.fallbacks += result[1]
        return result[0]


class Spread:
    """In the place of a head's weight: heads whose rows follow one another, each on a device of its own."""

    def __init__(self, heads: list[HeadArgs]) -> None:
        self.heads = heads
        self.shape = (sum(head.vocab_size for head in heads), heads[0].weight.shape[1])


def heads_of(head: HeadArgs) -> list[HeadArgs]:
    return head.weight.heads if isinstance(head.weight, Spread) else [head]


def row_slices(rows: int, size: int) -> Iterator[slice]:
    """Of hidden rows of `size` elements that are multiplied at a time."""
    return slices(rows, min(MOST_ROWS, limits.OPERAND // size))


def id_slices(head: HeadArgs, rows: int) -> Iterator[slice]:
    """Of the vocabulary that are multiplied by that many rows at a time."""
    return slices(head.vocab_size, min(limits.OPERAND // head.weight.shape[1], limits.PRODUCTS // max(rows, 1)))


def weight_of(head: HeadArgs, ids: slice) -> tuple[products.Rows, products.Bias | None]:
    bias = None if head.bias is None else products.Bias.of(head.bias[ids])
    return products.Rows.of(head.weight[ids]), bias


def transformed(
    hidden: products.Rows,
    weight: products.Rows,
    bias: products.Bias | None,
    steps: list[Step],
    dtype: torch.dtype,
    counter: Counter,
) -> Tensor:
    """Logits [n, v] after these steps, the last of which is rounded to the type."""
    z = counter.add(products.logits(hidden, weight, bias, torch.float32 if steps else dtype))
    for number, step in enumerate(steps):
        z = counter.add(transforms.apply(step, z, dtype if number == len(steps) - 1 else torch.float32))
    return z


def all_logits(head: HeadArgs, hidden: Tensor, steps: list[Step], out: Tensor, counter: Counter) -> None:
    """Logits of the rows before temperature, into out [n, vocab_size], in its type."""
    first = 0
    for one in heads_of(head):
        own, device = out[:, first : first + one.vocab_size], one.weight.device
        made = own if device == out.device else torch.empty(own.shape, dtype=out.dtype, device=device)
        _logits_of(one, hidden.to(device), steps, made, counter)
        if made is not own:
            own.copy_(made)
        first += one.vocab_size


def _logits_of(head: HeadArgs, hidden: Tensor, steps: list[Step], out: Tensor, counter: Counter) -> None:
    for rows in row_slices(hidden.shape[0], hidden.shape[1]):
        prepared = products.Rows.of(hidden[rows])
        for ids in id_slices(head, rows.stop - rows.start):
            out[rows, ids] = transformed(prepared, *weight_of(head, ids), steps, out.dtype, counter)


class Whole(NamedTuple):
    """Some rows: their places among all, and their f32 logits over the whole vocabulary, before the temperature and
    after it; and the support, [1, V] or [n, V], or None for all."""

    places: Tensor
    before: Tensor
    last: Tensor
    kept: Tensor | None
    temperatures: Tensor


def whole_rows(
    head: HeadArgs, support: SupportArgs, places: Tensor, temperatures: Tensor, counter: Counter
) -> Iterator[Whole]:
    """The rows of these places, a few at a time. places and temperatures [N] are on the CPU."""
    device, vocab_size, support = head.hidden.device, head.vocab_size, with_lists_on_cpu(support)
    steps, warm = transforms.steps_of(head), bool((temperatures != 1).any())
    each = vocab_size * (4 + 4 * warm + any(x is not None for x in support))
    for part in slices(len(places), min(MOST_ROWS, limits.ROWS // each)):
        chosen = places[part]
        there = chosen.to(device)
        before = torch.empty(len(chosen), vocab_size, dtype=torch.float32, device=device)
        all_logits(head, head.hidden[there], steps, before, counter)
        last = before
        if warm:
            divisors, last = temperatures[chosen].to(device)[:, None], torch.empty_like(before)
            for ids in slices(vocab_size, limits.PRODUCTS // len(chosen)):
                last[:, ids] = transforms.divided(before[:, ids], divisors)
        kept = kept_of(support, chosen, slice(0, vocab_size), device)
        yield Whole(there, before, last, kept, temperatures[chosen])


def with_lists_on_cpu(support: SupportArgs) -> SupportArgs:
    """A mask stays where it is."""
    lists = {name: ids.cpu() for name, ids in support._asdict().items() if name != "mask" and ids is not None}
    return support._replace(**lists)


def kept_of(support: SupportArgs, rows: Tensor, ids: slice, device: torch.device) -> Tensor | None:
    """Which of these ids are in the support of the rows, [1, v] or [n, v]; None: all. `rows` and lists are on the
    CPU."""
    if support.mask is not None:
        mask = support.mask[:, ids]
        return mask if mask.shape[0] == 1 else mask[rows.to(device)]
    shape, kept = (len(rows), ids.stop - ids.start), None
    if support.kept_offsets is not None:
        kept = torch.zeros(shape, dtype=torch.bool, device=device)
        kept[_listed(support.kept_offsets, support.kept_ids, rows, ids, device)] = True
    if support.banned_offsets is not None:
        kept = torch.ones(shape, dtype=torch.bool, device=device) if kept is None else kept
        kept[_listed(support.banned_offsets, support.banned_ids, rows, ids, device)] = False
    return kept


def _listed(offsets: Tensor, listed: Tensor, rows: Tensor, ids: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places in a matrix of these rows and ids."""
    lists = [listed[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
    numbers = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(one) for one in lists]))
    found = torch.cat(lists) - ids.start
    there = (found >= 0) & (found < ids.stop - ids.start)
    return numbers[there].to(device), found[there].to(device)
