"""Ranks whose tensors are on another device than the CPU.

Logits of a rank's ids are made where its weight lies, a few rows at a time, and copied to the CPU, where the library's
core makes of them what it makes of its own: so what ranks tell one another is the same, and so are the results. Fast
gradients are made on the device too, exact ones of copies on the CPU.
"""

import functools
import struct
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from isologit import _logits, _native, _numbers, _of_logits_torch, _sample, _score
from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, Samples
from isologit._score import Results, ScoreArgs
from isologit._support import SupportArgs
from isologit._torch import backward, cuda, fingerprint
from isologit.torch_backend import backward as gradients
from isologit.torch_backend import blocks, core, limits
from isologit.torch_backend.rounding import rounded


def rows_at_a_time(everyone: list[dict[str, Any]]) -> int:
    """The same on all ranks: as many as have logits of limits.ROWS bytes where the ids are most."""
    most = max(max(facts["own_rows"], default=0) for facts in everyone)
    return max(1, limits.ROWS // (4 * max(most, 1)))


def with_gradients(args: ScoreArgs) -> ScoreArgs:
    """Asked for what backward wants beside summaries, too."""
    if args.head.arithmetic == "fast":
        raise NotImplementedError(
            f"arithmetic is 'fast', hidden is on {args.head.hidden.device} and gradients are wanted; expected "
            "arithmetic='exact', or torch.no_grad()"
        )
    return args._replace(outputs=[*args.outputs, *["argmax"] * ("argmax" not in args.outputs)])


def score(step: int, args: ScoreArgs, peers: _native.PeersCalls | None = None) -> Results:
    """What _score.run gives, on the device of hidden, of `step` rows at a time."""
    results, reports = Results.zeros(args), []
    for rows, support in _parts(args.head, args.support, step):
        ids = None if args.token_ids is None else args.token_ids[rows].cpu().contiguous()
        counting = None if ids is None or ids.ndim == 2 else ids != args.ignore_index
        head = _given(args.head, rows, counting)
        found = _score.run(args._replace(head=head, support=support, token_ids=ids), peers)
        for name, target in results._asdict().items():
            if name != "counts" and target.numel():
                values = getattr(found, name)
                target[rows] = (values[:-1] if name == "summaries" else values).to(target.device)
        reports.append(found.counts)
    _report(results.counts, args.head, reports)
    return results


def sample(step: int, args: SampleArgs, peers: _native.PeersCalls | None = None) -> Samples:
    """What _sample.run gives, likewise."""
    results, reports = args.zeros(), []
    for rows, support in _parts(args.head, args.support, step):
        draws = {name: _of_rows(getattr(args, name), rows) for name in args._fields[2:]}
        found = _sample.run(args._replace(head=_given(args.head, rows, None), support=support, **draws), peers)
        for target, values in zip(results[:-1], found[:-1], strict=True):
            target[rows] = values.to(target.device)
        reports.append(found.counts)
    _report(results.counts, args.head, reports)
    return results


def of_logits(
    step: int,
    logits: Tensor,
    temperatures: Tensor,
    token_ids: Tensor | None,
    ignore_index: int,
    output: str,
    running: _native.Running,
    g: Tensor | None = None,
) -> Tensor:
    """What run_of_logits gives, or run_of_logits_backward of an upstream g, likewise."""
    core.check_kernel(running.kernel, logits.device)
    rest = (ignore_index, output, running._replace(kernel=""))
    if g is None:
        result = _of_logits_torch.output_of(logits, token_ids, output)
    else:
        result = torch.empty_like(logits, dtype=torch.float32, memory_format=torch.contiguous_format)
    for rows in limits.slices(logits.shape[0], step):
        operands = _operands(logits, temperatures, token_ids, rows)
        if g is None:
            found = _of_logits_torch.run_of_logits(*operands, *rest)
        else:
            found = _of_logits_torch.run_of_logits_backward(g[rows].cpu(), *operands, *rest)
        result[rows] = found.to(result.device)
    return result


def score_backward(
    flat: tuple[Any, ...], first: Tensor, rows_of: list[tuple[int, int]], peers: _native.PeersCalls
) -> tuple[Tensor, ...]:
    """What backward.run_score gives: of dhidden this party's rows alone. first: the id of each row's greatest logit,
    [N]; rows_of: of each party the rows [first, last) that are its own."""
    kinds = (HeadArgs, SupportArgs, backward.Upstream, backward.Wanted)
    head, support, upstream, wanted = backward.split(flat, *kinds)
    with torch.autocast(head.hidden.device.type, enabled=False):
        if head.hidden.shape[0] > 0:
            fingerprint.check(upstream.summaries[-1], head, support, upstream.token_ids)
        support = blocks.with_lists_on_cpu(support)
        given, places = gradients.contributing(head, upstream)
        there = places.to(head.hidden.device)
        summary = _summary_of(upstream.summaries[there], first[there])
        if wanted.gradients == "exact" or bool(summary.isnan().any()):  # NaN: f64 does not hold such a row's sums
            run = functools.partial(backward.run_score, peers=peers)
            return gradients.by_core(run, wanted, head, support, upstream)
        place = peers.native.first_id, peers.native.vocab_size
        problem = gradients.problem_of(head, support, given, places, summary, *place)
        return gradients.make(problem, wanted, functools.partial(_share_dhidden, peers, rows_of))


def _summary_of(rows: Tensor, first: Tensor) -> Tensor:
    """Packed for the backend, of what the core leaves of rows [n, 5] and their greatest logits' ids [n]."""
    top, mass, _, moment, _ = rows.split(1, 1)
    return gradients.Summary(top, first[:, None].double(), mass, moment, torch.zeros_like(top)).packed()


def _share_dhidden(peers: _native.PeersCalls, rows_of: list[tuple[int, int]], problem: Any, dhidden: Tensor) -> None:
    """Of each row the sums of all parties, added in f64 in the order of their ids by the party whose row it is."""
    party = peers.own_rows.party
    for rows, sums in gradients.hidden_sums(problem):
        places = problem.places[rows]
        ends = [torch.searchsorted(places, torch.tensor(own)).tolist() for own in rows_of]
        first_id = struct.pack("<q", peers.native.first_id)
        parts = [sums[first:last] for first, last in ends]
        received = peers.own_rows.scatter([first_id + part.cpu().numpy().tobytes() for part in parts])
        shape = parts[party].shape
        if shape[0]:
            in_order = sorted((struct.unpack_from("<q", one)[0], one[len(first_id) :]) for one in received)
            with _numbers.usual_rounding():
                total = torch.zeros(shape, dtype=torch.float64)
                for _, one in in_order:
                    total += torch.frombuffer(bytearray(one), dtype=torch.float64).reshape(shape)
                total = rounded(total, dhidden.dtype)
            dhidden[places[slice(*ends[party])].to(dhidden.device)] = total.to(dhidden.device)


def _parts(head: HeadArgs, support: SupportArgs, step: int) -> Iterator[tuple[slice, SupportArgs]]:
    """Rows at a time, and their support on the CPU."""
    lists = blocks.with_lists_on_cpu(support)._asdict()
    for rows in limits.slices(head.hidden.shape[0], step):
        own = {} if support.mask is None else {"mask": _of_rows(support.mask, rows)}
        for name in ("kept", "banned"):
            offsets, ids = lists[f"{name}_offsets"], lists[f"{name}_ids"]
            if offsets is not None:
                ends = offsets[rows.start : rows.stop + 1]
                own[f"{name}_offsets"] = ends - ends[0]
                own[f"{name}_ids"] = ids[ends[0] : ends[-1]].clone()
        yield rows, SupportArgs(**own)


def _given(head: HeadArgs, rows: slice, counting: Tensor | None) -> HeadArgs:
    """The head of these rows for the core: their logits before any transform, which is its own."""
    own = {"temperatures": _of_rows(head.temperatures, rows), "arithmetic": "exact", "kernel": ""}
    return head._replace(hidden=_logits_of(head, head.hidden[rows], counting), weight=None, bias=None, **own)


def _logits_of(head: HeadArgs, hidden: Tensor, counting: Tensor | None) -> Tensor:
    """[n, vocab_size], but of at least one column, on the CPU; of rows that do not count, 0."""
    if head.vocab_size == 0:
        return torch.zeros(hidden.shape[0], 1)
    options = {"arithmetic": head.arithmetic, "kernel": head.kernel, "vocab_size": head.vocab_size}
    if counting is None or bool(counting.all()):
        return _logits.logits(hidden, head.weight, bias=head.bias, **options).cpu()
    z, chosen = torch.zeros(hidden.shape[0], head.vocab_size), counting.nonzero()[:, 0]
    z[chosen] = _logits.logits(hidden[chosen.to(hidden.device)], head.weight, bias=head.bias, **options).cpu()
    return z


def _operands(
    logits: Tensor, temperatures: Tensor, token_ids: Tensor | None, rows: slice
) -> tuple[Tensor, Tensor, Tensor | None]:
    ids = None if token_ids is None else token_ids[rows].cpu().contiguous()
    return logits[rows].cpu().contiguous(), _of_rows(temperatures, rows), ids


def _of_rows(values: Tensor, rows: slice) -> Tensor:
    """Of what is for all rows, [1] or [1, V], or one a row: that of these, on the CPU."""
    return (values if values.shape[0] == 1 else values[rows]).cpu().contiguous()


def _report(counts: Tensor, head: HeadArgs, reports: list[Tensor]) -> None:
    """Into counts what the calls of all rows report, and which kernel has made the logits."""
    fast, fields = head.arithmetic == "fast", _native.Report._fields
    by_cuda = cuda.makes(head.hidden, head.weight, head.bias, head.kernel, arithmetic=head.arithmetic)
    kernel = cuda.kernel_of(fast) if by_cuda else _native.TORCH
    total = torch.zeros_like(counts, device="cpu")
    if reports:
        every = torch.stack(reports)
        total = every.amax(0)
        for name in ("rows", "undecided_rows"):
            total[fields.index(name)] = every[:, fields.index(name)].sum()
    total[fields.index("kernel")] = _native.kernel_names().index(kernel)
    total[fields.index("arithmetic")] = int(fast)
    counts.copy_(total)
