"""Gradients. "fast": dz in f64 from exact logits, a block at a time, and the vendor's f64 products of it; errors are
those of f64, far inside the bound of CONTRACT.md 5. "exact": by the library's core, with copies of all operands on the
CPU.

A row of dhidden must not depend on the others, and a vendor's order of sums on the shape: dhidden is made by products
of one shape alone, rows being filled up with zeros, after a look whether all rows of such a product are summed alike.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _devices, _native
from isologit._inputs import HeadArgs
from isologit._support import SupportArgs
from isologit._torch import backward, cuda, fingerprint
from isologit.torch_backend import blocks, folds, limits, products, transforms
from isologit.torch_backend.blocks import Counter
from isologit.torch_backend.rounding import rounded

_IDS = 1024  # at a time
_GROUP = 32  # rows of one product that makes dhidden
_ROWS = 256  # of one product that makes dweight


class Summary(NamedTuple):
    """What forward leaves of rows, [n, 1] in f64; special: 1 where the floats of CONTRACT.md 3 are NaN."""

    top: Tensor
    first: Tensor
    rest: Tensor
    moment: Tensor
    special: Tensor

    @classmethod
    def of(cls, sums: folds.Sums) -> "Summary":
        return cls(sums.top, sums.first.double(), sums.rest, sums.moment, sums.special.double())

    def packed(self) -> Tensor:
        return torch.cat(list(self), 1)

    @classmethod
    def unpacked(cls, packed: Tensor) -> "Summary":
        return cls(*packed.split(1, 1))


class _Upstream(NamedTuple):
    """Of n rows, f64: of logprobs at ids [n, K], and [n, 1] of lse, entropy and mean_logits."""

    ids: Tensor
    logprobs: Tensor
    lse: Tensor
    entropy: Tensor
    mean_logits: Tensor

    def of(self, rows: slice | Tensor) -> "_Upstream":
        return _Upstream(*(values[rows] for values in self))


class _Place(NamedTuple):
    """Of a block the logits [n, v], which of the ids are in the support, or None for all, and how large that is."""

    rows: slice
    ids: slice
    last: Tensor | None
    kept: Tensor | None
    size: Tensor


class _Problem(NamedTuple):
    """Rows with an upstream, whose places among all are on the CPU; the sizes of their supports [n, 1]; how a block's
    dz is made, in f64; and the id of the head's first row, where others have the rest of the vocabulary."""

    head: HeadArgs
    support: SupportArgs
    places: Tensor
    temperatures: Tensor
    sizes: Tensor
    needs_logits: bool
    dz: Callable[[_Place], Tensor]
    first_id: int = 0

    def id_slices(self) -> Iterator[slice]:
        """Depends on the head alone."""
        return limits.slices(self.head.vocab_size, min(_IDS, limits.OPERAND // self.head.weight.shape[1]))

    def hidden(self, rows: slice) -> products.Rows:
        return products.Rows.of(self.head.hidden[self.places[rows].to(self.head.hidden.device)])

    def block(self, rows: slice, ids: slice, hidden: products.Rows, weight: products.Rows) -> Tensor:
        """dz [n, v] of the logits of CONTRACT.md 1."""
        device = weight.given.device
        divisors = self.temperatures[rows][:, None].to(device)
        steps = transforms.steps_of(self.head)
        last, capped = None, None
        if self.needs_logits:
            last, capped = self._logits(ids, hidden, weight, steps)
            last = transforms.divided(last, divisors)
        named = slice(self.first_id + ids.start, self.first_id + ids.stop)
        kept = blocks.kept_of(self.support, self.places[rows], named, device)
        dz = self.dz(_Place(rows, named, last, kept, self.sizes[rows])) / divisors.double()
        for kind, number in steps:
            if kind == "softcap":
                dz = dz * _slope(capped.double() / number)
            else:
                dz = dz * number if kind == "scale" else dz / number
        return dz

    def _logits(
        self, ids: slice, hidden: products.Rows, weight: products.Rows, steps: list[transforms.Step]
    ) -> tuple[Tensor, Tensor | None]:
        """Before the temperature, and what the softcap was given."""
        counter, capped = Counter(), None
        bias = None if self.head.bias is None else products.Bias.of(self.head.bias[ids])
        z = blocks.transformed(hidden, weight, bias, [], torch.float32, counter)
        for step in steps:
            capped = z if step.kind == "softcap" else capped
            z = counter.add(transforms.apply(step, z, torch.float32))
        return z, capped


def _slope(x: Tensor) -> Tensor:
    """1 - tanh(x)^2, which keeps its precision where tanh is near 1."""
    e = torch.exp(-2 * x.abs())
    return 4 * e / ((1 + e) * (1 + e))


def score_backward(*flat: Any) -> tuple[Tensor, ...]:
    head, support, upstream, wanted = backward.split(flat, HeadArgs, SupportArgs, backward.Upstream, backward.Wanted)
    rows = head.hidden.shape[0]
    if rows > 0 and upstream.summaries.numel() > 0:
        fingerprint.check(upstream.summaries[-1], head, support, upstream.token_ids)
    if wanted.gradients == "exact" and head.arithmetic == "exact":
        return by_core(backward.run_score, wanted, head, support, upstream)
    if rows > 0 and wanted.gradients == "fast" and (made := _by_cuda(head, support, upstream, wanted)) is not None:
        return made
    if head.arithmetic == "fast" and rows > 0:
        raise NotImplementedError(
            f"gradients={wanted.gradients!r} of fast logits on {head.hidden.device}: the CUDA library makes fast ones, "
            "for up to 4096 ids a row; expected gradients='fast', or arithmetic='exact'"
        )
    support = blocks.with_lists_on_cpu(support)
    given, places = contributing(head, upstream)
    summary = upstream.summaries[places.to(head.hidden.device)] if upstream.summaries.numel() > 0 else None
    if summary is None or bool(summary.isnan().any()):  # NaN: forward left none
        summary = _summaries(head, support, places, head.temperatures.cpu().expand(rows))
    return make(problem_of(head, support, given, places, summary), wanted)


def contributing(head: HeadArgs, upstream: backward.Upstream) -> tuple[_Upstream, Tensor]:
    """Of the rows that contribute to a gradient, and their places among all, on the CPU."""
    given = _upstream_of(upstream, backward.rows_that_count(upstream, head.hidden))
    places = torch.cat([(values != 0).any(1, keepdim=True) for values in given[1:]], 1).any(1).nonzero()[:, 0].cpu()
    return given.of(places.to(head.hidden.device)), places


def problem_of(
    head: HeadArgs,
    support: SupportArgs,
    given: _Upstream,
    places: Tensor,
    summary: Tensor,
    first_id: int = 0,
    vocab_size: int | None = None,
) -> _Problem:
    """Of the rows of these places; summary [n, 5] is a packed Summary. The head has ids from first_id on of a
    vocabulary of vocab_size; the support, whose lists are on the CPU, and the summary are of the whole."""

    def dz(place: _Place) -> Tensor:
        return _dz(place, Summary.unpacked(summary[place.rows]), given.of(place.rows))

    temperatures = head.temperatures.cpu().expand(head.hidden.shape[0])[places]
    whole = head if vocab_size is None else head._replace(vocab_size=vocab_size)
    return _Problem(head, support, places, temperatures, _sizes(whole, support, places), True, dz, first_id)


def _by_cuda(
    head: HeadArgs, support: SupportArgs, upstream: backward.Upstream, wanted: backward.Wanted
) -> tuple[Tensor, ...] | None:
    """The gradients by the CUDA library, if it makes these; what it does not prove, the library's core makes."""
    counts = backward.rows_that_count(upstream, head.hidden)
    ids, d_logprobs = backward.ids_and_upstream(upstream, counts)
    if not cuda.makes_backward(head, ids):
        return None
    upstreams = {"d_logprobs": d_logprobs} if ids.shape[1] else {}
    for name in ("d_lse", "d_entropy", "d_mean_logits"):
        values = getattr(upstream, name)
        if values is not None and values.numel() == len(counts):
            upstreams[name] = values.float().masked_fill(~counts, 0)
    results = backward.outputs(head, wanted)
    accumulate = isinstance(wanted.dweight, Tensor)
    if accumulate:
        _check_apart(wanted.dweight, head)
    for tensor in results:
        tensor.zero_()  # rows of padding
    dhidden, *rest, dbias, _, _ = results
    gradients = {"dhidden": dhidden, "dweight": wanted.dweight if accumulate else rest[0], "dbias": dbias}
    gradients = {name: tensor for name, tensor in gradients.items() if tensor.numel()}
    # Of an entropy's derivatives more cancels than f64 sums leave: without these they are made anew, in pairs of f64.
    there = upstream.summaries.numel() > 0 and "d_entropy" not in upstreams
    summaries = upstream.summaries[:-1] if there and not bool(upstream.summaries[:-1].isnan().any()) else None
    if cuda.backward(head, support, ids, upstreams, summaries, gradients, accumulate):
        return results
    if accumulate or head.arithmetic == "fast":
        error = RuntimeError(
            "the CUDA library does not prove these gradients, in which nearly all cancels; "
            "expected kernel='torch' or gradients='exact'"
        )
        if accumulate:
            backward.mark(wanted.dweight, error)
        raise error
    return by_core(backward.run_score, wanted, head, support, upstream)


def logits_backward(*flat: Any) -> tuple[Tensor, ...]:
    head, upstream, wanted = backward.split(flat, HeadArgs, backward.LogitsUpstream, backward.Wanted)
    if head.arithmetic == "fast":
        raise NotImplementedError(
            f"gradients of fast logits on {head.hidden.device}: the CUDA library makes those of their scores; "
            "expected arithmetic='exact'"
        )
    if wanted.gradients == "exact":
        return by_core(backward.run_logits, wanted, head, upstream)
    g = upstream.d_logits
    places = torch.cat([(g[rows] != 0).any(1) for rows in limits.slices(g.shape[0], _ROWS)] or [g.new_empty(0)])
    places = places.nonzero()[:, 0].cpu()
    there = places.to(g.device)

    temperatures = head.temperatures.cpu().expand(head.hidden.shape[0])
    special = _nan_rows(head, places, temperatures)

    def dz(place: _Place) -> Tensor:
        return torch.where(special[place.rows], torch.nan, g[there[place.rows]][:, place.ids].float().double())

    temperatures = temperatures[places]
    sizes = _sizes(head, SupportArgs(), places)
    problem = _Problem(head, SupportArgs(), places, temperatures, sizes, head.softcap is not None, dz)
    return make(problem, wanted)


def _nan_rows(head: HeadArgs, places: Tensor, temperatures: Tensor) -> Tensor:
    """Which rows of these places hold a NaN among their logits, [n, 1]; finite operands make none."""
    device, step = head.hidden.device, limits.OPERAND // head.weight.shape[1]
    parts = itertools.chain(
        (head.weight[ids] for ids in limits.slices(head.vocab_size, step)),
        (head.hidden[places[rows].to(device)] for rows in limits.slices(len(places), step)),
        () if head.bias is None else (head.bias[: head.vocab_size],),
    )
    found = [torch.zeros(0, 1, dtype=torch.bool, device=device)]
    if all(bool(part.isfinite().all()) for part in parts):
        return found[0].new_zeros(len(places), 1)
    for whole in blocks.whole_rows(head, SupportArgs(), places, temperatures, Counter()):
        found.append(whole.last.isnan().any(1, keepdim=True))
    return torch.cat(found)


def _counts_of_core() -> Tensor:
    """What names the library's best kernel to its backward: counts and summaries of this backend say nothing there."""
    counts = torch.zeros(len(_native.Report._fields), dtype=torch.int64)
    counts[0] = _native.kernel_names().index(_devices.best_kernel().name)
    return counts


def by_core(run: Callable[..., Any], wanted: backward.Wanted, *parts: Any) -> tuple[Tensor, ...]:
    """The library's gradients of copies of the parts, a head first and the upstream last, on the CPU; a buffer among
    them is copied back."""
    *operands, upstream = parts
    device = operands[0].hidden.device
    summaries = {"summaries": torch.empty(0, dtype=torch.float64)} if hasattr(upstream, "summaries") else {}
    upstream = upstream._replace(counts=_counts_of_core(), **summaries)
    copies = tuple(part._make(map(_on_cpu, part)) for part in (*operands, upstream, wanted))
    try:
        found = run(*itertools.chain.from_iterable(copies))
    finally:
        if isinstance(wanted.dweight, Tensor):
            wanted.dweight.copy_(copies[-1].dweight)
    return tuple(x.to(device) for x in found)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _upstream_of(upstream: backward.Upstream, counts: Tensor) -> _Upstream:
    ids, logprobs = backward.ids_and_upstream(upstream, counts)
    columns = []
    for name in ("d_lse", "d_entropy", "d_mean_logits"):
        values = getattr(upstream, name)
        there = values is not None and values.numel() == len(counts)
        values = values.float().masked_fill(~counts, 0) if there else torch.zeros_like(counts, dtype=torch.float32)
        columns.append(values.reshape(-1, 1).double())
    return _Upstream(ids, logprobs.double(), *columns)


def _summaries(head: HeadArgs, support: SupportArgs, places: Tensor, temperatures: Tensor) -> Tensor:
    found = [torch.empty(0, len(Summary._fields), dtype=torch.float64, device=head.hidden.device)]
    for whole in blocks.whole_rows(head, support, places, temperatures, Counter()):
        found.append(Summary.of(folds.sums(whole.last, whole.kept)).packed())
    return torch.cat(found)


def _sizes(head: HeadArgs, support: SupportArgs, places: Tensor) -> Tensor:
    device, sizes = head.hidden.device, torch.full((len(places), 1), float(head.vocab_size), dtype=torch.float64)
    sizes = sizes.to(device)
    if any(x is not None for x in support):
        for part in limits.slices(len(places), limits.ROWS // head.vocab_size):
            kept = blocks.kept_of(support, places[part], slice(0, head.vocab_size), device)
            sizes[part] = kept.sum(1, keepdim=True).double()
    return sizes


def _dz(place: _Place, s: Summary, up: _Upstream) -> Tensor:
    """sum_j a_j ([v = t_j] - p_v) + b p_v - c p_v (ln p_v + H) + d / |S|.

    ln p + H is z - top + moment / total. Of the top 1 - p is rest / total, which nothing cancels.
    """
    numbers = torch.arange(place.ids.start, place.ids.stop, device=place.last.device)
    total, is_first = 1 + s.rest, numbers == s.first
    d = place.last.double() - s.top
    inside = d > -torch.inf if place.kept is None else (d > -torch.inf) & place.kept
    d = torch.where(inside, d, 0.0)
    p = torch.where(inside, torch.exp(d) / total, 0.0)
    at_first = up.ids == s.first
    others = folds.tree_sum(torch.where(at_first, 0.0, up.logprobs))
    everything = folds.tree_sum(up.logprobs)
    if up.ids.shape[1] == 0:
        others = everything = torch.zeros_like(total)
    dz = (up.lse - torch.where(is_first, others, everything)) * p - up.entropy * p * (d + s.moment / total)
    own = torch.where(at_first, up.logprobs * (s.rest / total), up.logprobs)
    rows, which = ((up.ids >= place.ids.start) & (up.ids < place.ids.stop)).nonzero(as_tuple=True)
    columns = up.ids[rows, which] - place.ids.start
    dz.index_put_((rows, columns), own[rows, which], accumulate=True)
    dz = torch.where(s.special != 0, torch.nan, dz + up.mean_logits / place.size)
    return dz if place.kept is None else torch.where(place.kept, dz, 0.0)


def make(
    problem: _Problem, wanted: backward.Wanted, make_dhidden: Callable[[_Problem, Tensor], None] | None = None
) -> tuple[Tensor, ...]:
    """What backward.outputs says; forward has refused a low-rank addition. make_dhidden(problem, dhidden) writes the
    rows that contribute, where that is not of the problem alone."""
    results = backward.outputs(problem.head, wanted)
    accumulate = isinstance(wanted.dweight, Tensor)
    if accumulate:
        _check_apart(wanted.dweight, problem.head)
    dweight = wanted.dweight if accumulate else results[1]
    for tensor in results:
        tensor.zero_()  # rows without an upstream, and those of padding
    if len(problem.places):
        if wanted.dhidden:
            (make_dhidden or _make_dhidden)(problem, results[0])
        if accumulate or wanted.dweight or wanted.dbias:
            try:
                _make_dweight(problem, dweight if accumulate or wanted.dweight else None, accumulate, results[-3])
            except BaseException as error:
                if accumulate:
                    backward.mark(dweight, error)
                raise
    return results


def _check_apart(buffer: Tensor, head: HeadArgs) -> None:
    """A buffer is written to while operands are read."""

    def range_of(x: Tensor) -> tuple[int, int]:
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size() * (x.numel() > 0)

    first, end = range_of(buffer)
    for name in ("hidden", "weight", "bias"):
        operand = getattr(head, name)
        if operand is not None and range_of(operand)[0] < end and first < range_of(operand)[1]:
            raise ValueError(f"dweight_accumulate overlaps {name}; expected memory of its own")


def _make_dhidden(problem: _Problem, dhidden: Tensor) -> None:
    for rows, total in hidden_sums(problem):
        dhidden[problem.places[rows].to(dhidden.device)] = rounded(total, dhidden.dtype)


def hidden_sums(problem: _Problem) -> Iterator[tuple[slice, Tensor]]:
    """Of some of the problem's rows at a time: dhidden in f64, as far as this head's ids go."""
    head = problem.head
    size = head.weight.shape[1]
    for rows in blocks.row_slices(len(problem.places), size):
        hidden, count = problem.hidden(rows), rows.stop - rows.start
        groups = -(-count // _GROUP)
        total = torch.zeros(groups * _GROUP, size, dtype=torch.float64, device=head.hidden.device)
        for ids in problem.id_slices():
            weight = products.Rows.of(head.weight[ids])
            dz = problem.block(rows, ids, hidden, weight)
            dz = torch.nn.functional.pad(dz, (0, 0, 0, groups * _GROUP - count)).contiguous()
            values = weight.values.contiguous()  # orders of sums are a layout's too
            step = _GROUP if _summed_alike(dz.device, dz.shape[1], size) else 1
            for some in limits.slices(len(dz), step):
                total[some] += dz[some] @ values
        yield rows, total[:count]


@functools.cache
def _summed_alike(device: torch.device, ids: int, size: int) -> bool:
    """Whether the vendor sums all rows of a product of this shape in one order: equal rows give equal bits."""
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(1, ids, generator=generator), torch.randn(ids, size, generator=generator)
    found = one.to(device).double().expand(_GROUP, -1).contiguous() @ other.to(device).double()
    return bool((found == found[:1]).all())


def _make_dweight(problem: _Problem, dweight: Tensor | None, accumulate: bool, dbias: Tensor) -> None:
    head = problem.head
    for ids in problem.id_slices():
        weight = products.Rows.of(head.weight[ids])
        total, total_bias = torch.zeros_like(weight.values), 0.0
        for rows in limits.slices(len(problem.places), min(_ROWS, limits.OPERAND // head.weight.shape[1])):
            hidden = problem.hidden(rows)
            dz = problem.block(rows, ids, hidden, weight)
            if dweight is not None:
                total += dz.T @ hidden.values
            if dbias.numel():
                total_bias = total_bias + folds.tree_sum(dz.T)[:, 0]
        if dweight is not None:
            total = total + dweight[ids].double() if accumulate else total
            dweight[ids] = rounded(total, dweight.dtype)
        if dbias.numel():
            dbias[ids] = rounded(total_bias, dbias.dtype)
