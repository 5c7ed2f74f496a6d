"""The properties of a head, each a function of the head and its data that compares bits."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isologit.testing._arrays import DTYPES, Head, Output, concatenated, output_of
from isologit.testing._data import Data, normal
from isologit.testing._right import NotAsked, accuracy, gradients


@dataclass
class Comparison:
    """Counts what is compared, and keeps the first difference."""

    compared: int = 0
    wrong: int = 0
    first: dict[str, Any] | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, found: Output, expected: Output, rows: np.ndarray | None = None) -> None:
        """rows: which row of the batch each row is."""
        self.compared += expected.bits.size
        if found.bits.shape != expected.bits.shape or found.dtype != expected.dtype:
            self._note(expected.bits.size, f"{what}: {found.dtype} {found.bits.shape}", None, None, None)
            return
        differ = (found.bits != expected.bits) & ~(np.isnan(found.values) & np.isnan(expected.values))
        if not differ.any():
            return
        place = tuple(int(i) for i in np.argwhere(differ)[0])
        digits = 2 * found.bits.dtype.itemsize
        bits = [f"0x{int(one.bits[place]):0{digits}x}" for one in (found, expected)]
        row = place[0] if rows is None else int(rows[place[0]])
        self._note(int(differ.sum()), what, [row, *place[1:]], *bits)

    def _note(self, count: int, what: str, place: Any, found: str | None, expected: str | None) -> None:
        self.wrong += count
        self.first = self.first or {"what": what, "at": place, "found": found, "expected": expected}

    def must(self, holds: np.ndarray, what: str, output: Output) -> None:
        """Each element of holds."""
        self.compared += holds.size
        if not holds.all():
            place = tuple(int(i) for i in np.argwhere(~holds)[0])
            place += (0,) * (output.bits.ndim - len(place))
            digits = 2 * output.bits.dtype.itemsize
            bits = f"0x{int(output.bits[place]):0{digits}x}"
            self._note(int((~holds).sum()), f"{what}: {float(output.values[place])!r}", list(place), bits, None)


def _same_rows(head: Head, data: Data, whole: Output, cases: Iterator[tuple[str, np.ndarray]]) -> Comparison:
    """Batches made of these rows of the data."""
    comparison = Comparison()
    for what, rows in cases:
        found = head(data.hidden[rows], data.weight, data.ids[rows])
        comparison.add(what, found, whole[rows], rows)
    return comparison


def slices(head: Head, data: Data, whole: Output) -> Comparison:
    """Rows alone, or a few that follow each other."""
    count = len(data.hidden)
    cases = (
        (f"rows {i} to {i + n - 1} alone" if n > 1 else f"row {i} alone", np.arange(i, i + n))
        for n in (1, 2, 3, 5, 8, 16)
        for i in range(0, count - n + 1, n)
    )
    return _same_rows(head, data, whole, cases)


def position(head: Head, data: Data, whole: Output) -> Comparison:
    """The batch, its rows moved on."""
    count = len(data.hidden)
    cases = ((f"moved by {by}", (np.arange(count) + by) % count) for by in (1, 3, count // 2))
    return _same_rows(head, data, whole, cases)


def permutation(head: Head, data: Data, whole: Output) -> Comparison:
    count = len(data.hidden)
    orders = [("reversed", np.arange(count)[::-1].copy()), ("in another order", np.argsort(normal(4, 1, count)[0]))]
    return _same_rows(head, data, whole, iter(orders))


def padding(head: Head, data: Data, whole: Output) -> Comparison:
    """Rows of zeros behind the batch, and before it."""
    comparison, count = Comparison(), len(data.hidden)
    for more in (1, 8, 40):
        zeros, ids = np.zeros((more, data.hidden.shape[1]), np.float32), np.zeros(more, np.int64)
        behind = head(np.concatenate([data.hidden, zeros]), data.weight, np.concatenate([data.ids, ids]))
        comparison.add(f"{more} rows of zeros behind", behind[:count], whole)
        before = head(np.concatenate([zeros, data.hidden]), data.weight, np.concatenate([ids, data.ids]))
        comparison.add(f"{more} rows of zeros before", before[more:], whole)
    return comparison


def neighbours(head: Head, data: Data, whole: Output) -> Comparison:
    """Every other row holds something else: larger numbers, and infinities."""
    comparison = Comparison()
    for what, factor in (("others 64 times as large", np.float32(64)), ("others infinite", np.float32(np.inf))):
        hidden = data.hidden.copy()
        hidden[1::2] = np.abs(hidden[1::2]) * factor + factor
        rows = np.arange(0, len(hidden), 2)
        comparison.add(what, head(hidden, data.weight, data.ids)[rows], whole[rows], rows)
    return comparison


def chunks(head: Head, data: Data, whole: Output) -> Comparison:
    """The batch in pieces of one size, the last one shorter."""
    comparison, count = Comparison(), len(data.hidden)
    for size in (1, 4, 7, 16):
        pieces = [
            head(data.hidden[i : i + size], data.weight, data.ids[i : i + size]) for i in range(0, count, size)
        ]
        comparison.add(f"in chunks of {size}", concatenated(pieces), whole)
    return comparison


@contextlib.contextmanager
def _threads(head: Head, count: int) -> Iterator[None]:
    if head.is_torch:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
    else:
        try:
            from threadpoolctl import threadpool_limits
        except ModuleNotFoundError:
            raise NotAsked("numpy's threads need threadpoolctl: pip install threadpoolctl") from None
        with threadpool_limits(count):
            yield


def threads(head: Head, data: Data, whole: Output) -> Comparison:
    if head.is_torch and head.device != "cpu":
        raise NotAsked(f"on {head.device}")
    comparison = Comparison()
    for count in (1, 2, 3, 8):
        with _threads(head, count):
            comparison.add(f"threads {count}", head(data.hidden, data.weight, data.ids), whole)
    return comparison


def shards(head: Head, data: Data, whole: Output, gives: str) -> Comparison:
    """Slices of the vocabulary."""
    if gives != "logits":
        raise NotAsked("a shard's logprobs are over the shard: give logits")
    comparison, vocab = Comparison(), len(data.weight)
    edges = sorted({0, 1, min(67, vocab), vocab // 2, vocab})
    for a, b in zip(edges, edges[1:], strict=False):
        found = head(data.hidden, data.weight[a:b], data.ids)
        comparison.add(f"ids {a} to {b - 1} alone", found, whole[:, a:b])
    return comparison


def purity(head: Head, data: Data, whole: Output) -> Comparison:
    """The operands are left alone, and a second call gives the same."""
    comparison = Comparison()
    operands = [head.array(one) for one in (data.hidden, data.weight, data.ids)]
    before = [_bits(one) for one in operands]
    first, second = head.call(*operands), head.call(*operands)
    for name, one, was in zip(("hidden", "weight", "token_ids"), operands, before, strict=True):
        comparison.add(f"{name} was written to", _bits(one), was)
    comparison.add("once more", second, first)
    return comparison


def _bits(array: Any) -> Output:
    """Of an operand; ids too."""
    if str(array.dtype).removeprefix("torch.") in DTYPES:
        one = output_of(array)
        return Output(one.bits.copy(), one.dtype)
    ids = array if isinstance(array, np.ndarray) else array.cpu().numpy()
    return Output(ids.copy().view(np.uint64), "f64")


def weight_update(head: Head, data: Data, whole: Output) -> Comparison:
    """A weight that is written in place, as optimizers and engines do, between two calls."""
    comparison = Comparison()
    hidden, weight, ids = (head.array(one) for one in (data.hidden, data.weight, data.ids))
    changed = data.weight.copy()
    ways = ["in place", "by .data"] if head.is_torch else ["in place"]
    for place, way in enumerate(ways):
        before = head.call(hidden, weight, ids)
        changed = changed.copy()
        changed[place::2] *= -2
        new = head.array(changed)
        if way == "by .data":
            weight.data[:] = new
        elif head.is_torch:
            import torch

            with torch.no_grad():
                weight.copy_(new)
        else:
            weight[:] = new
        after = head.call(hidden, weight, ids)
        comparison.add(f"written {way}", after, head(data.hidden, changed, data.ids))
        comparison.must(np.array([(after.bits != before.bits).any()]), f"written {way}, and nothing changed", after[:1])
    return comparison


def nan_row(head: Head, data: Data, whole: Output) -> Comparison:
    """A row with a NaN is NaN, and no other is."""
    comparison, row = Comparison(), len(data.hidden) // 2
    hidden = data.hidden.copy()
    hidden[row, 1] = np.nan
    found = head(hidden, data.weight, data.ids)
    others = np.array([i for i in range(len(hidden)) if i != row])
    comparison.add("beside a row of NaN", found[others], whole[others], others)
    own = found[row : row + 1]
    comparison.must(np.isnan(own.values), "of a row with NaN", own)
    return comparison


def not_above_zero(head: Head, data: Data, whole: Output, gives: str) -> Comparison:
    if gives == "logits":
        raise NotAsked("of logprobs")
    comparison = Comparison()
    comparison.must(~(whole.values > 0), "above 0", whole)
    return comparison


def right_answer(head: Head, data: Data, whole: Output, gives: str) -> Comparison:
    comparison = Comparison()
    expected, comparison.figures = accuracy(whole, data, gives)
    comparison.add("the first that is not", whole, expected)
    return comparison


def right_gradients(head: Head, data: Data, whole: Output, gives: str) -> Comparison:
    comparison = Comparison()
    made = gradients(head, data, gives)
    for name, (found, expected, figures) in made.items():
        comparison.add(f"d{name}", found, expected)
        comparison.figures[f"d{name}"] = figures
    return comparison


def gradient_slices(head: Head, data: Data, whole: Output, gives: str) -> Comparison:
    """The gradient of a row's hidden state does not depend on the batch."""
    comparison = Comparison()
    made = gradients(head, data, gives, right=False)
    of_all = made["hidden"][0]
    for rows in (np.arange(1), np.arange(3, 6), np.arange(len(data.hidden))[::-1].copy()):
        own = gradients(head, Data(data.hidden[rows], data.weight, data.ids[rows]), gives, right=False, rows=rows)
        comparison.add(f"dhidden of rows {rows[0]} to {rows[-1]} alone", own["hidden"][0], of_all[rows], rows)
    return comparison


# Name, what it says, and the check.
CHECKS = {
    "slices": ("rows alone or with few others", slices),
    "position": ("rows at other places of the batch", position),
    "padding": ("rows of zeros before and behind", padding),
    "neighbours": ("what other rows hold", neighbours),
    "permutation": ("rows in other orders", permutation),
    "chunks": ("the batch in pieces", chunks),
    "threads": ("1, 2, 3, 8", threads),
    "shards": ("the vocabulary in pieces", shards),
    "purity": ("operands left alone, twice the same", purity),
    "weight update": ("a weight written in place is seen", weight_update),
    "nan": ("a NaN stays in its row", nan_row),
    "not above 0": ("logprobs", not_above_zero),
    "right": ("each result the right answer, rounded once", right_answer),
    "gradient slices": ("the gradient of a row alone", gradient_slices),
    "right gradients": ("each gradient the right answer", right_gradients),
}
ASK_WHAT_IT_GIVES = {"shards", "not above 0", "right", "gradient slices", "right gradients"}
