"""isologit::score and isologit::logits: what a head says, made of torch's operations."""

from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native
from isologit._inputs import HeadArgs
from isologit._logits import LogitsArgs
from isologit._score import OUTPUTS, Results, ScoreArgs
from isologit._support import SupportArgs
from isologit._torch import cuda, fingerprint
from isologit.torch_backend import backward, blocks, core, folds, order, products, self_test, transforms
from isologit.torch_backend.blocks import Counter, Whole

_HEAD = frozenset(
    "hidden weight bias temperatures vocab_size softcap scale divide transform_order arithmetic threads processors "
    "kernel lora_scale".split()  # the scale says nothing without its factors, which are not known here
)


def report(counts: Tensor, rows: int, counter: Counter, undecided: int, kernel: str = _native.TORCH) -> None:
    """Writes what Report.of reads."""
    number, fast = _native.kernel_names().index(kernel), int(kernel == _native.CUDA_FAST)
    threads = torch.get_num_threads() if counts.device.type == "cpu" else 1
    counts.copy_(torch.tensor([number, fast, threads, 1, rows, counter.fallbacks, undecided, threads]))


def checked(head: HeadArgs, support: SupportArgs, zero: bool = False, by_cuda: bool = False) -> Tensor:
    """The temperatures of all rows [N], on the CPU; an error for what no kernel takes, or this one does not. by_cuda:
    the CUDA library makes it."""
    core.check_known(head, _HEAD)
    for one in blocks.heads_of(head):
        if not by_cuda:
            core.check_kernel(head.kernel, one.weight.device)
        for name in ("hidden", "weight", "bias"):
            if (operand := getattr(one, name)) is not None:
                _inputs.dtype_code(operand, name)
    _native.arithmetic_code(head.arithmetic)
    if head.arithmetic != "exact" and not by_cuda:
        raise NotImplementedError(
            f"arithmetic is {head.arithmetic!r}, and hidden is on {head.hidden.device}; kernel 'torch' makes exact "
            "logits only, as the order of torch's own sums depends on the number of rows; the CUDA library makes fast "
            "ones in f32 of bf16 or f16 operands (docs/cuda.md)"
        )
    temperatures = head.temperatures.cpu()
    core.check_head(head, temperatures, zero)
    for name in ("kept", "banned"):
        if (ids := getattr(support, f"{name}_ids")) is not None:
            core.check_listed(name, ids.cpu(), head.vocab_size)
    for device in {head.hidden.device, *(one.weight.device for one in blocks.heads_of(head))}:
        self_test.require(device)
    return temperatures.expand(head.hidden.shape[0])


def logits(*flat: Any) -> tuple[Tensor, Tensor]:
    _native.arithmetic_code(flat[-2], "gradients")
    args = LogitsArgs.of(flat)
    head, (out, counts), counter = args.head, args.zeros(), Counter()
    temperatures = checked(head, SupportArgs(), by_cuda=(by_cuda := cuda.makes_logits(args)))
    fast = head.arithmetic == "fast"
    if by_cuda and cuda.transformed(head, out):  # else some number is not proven, and all are made here
        report(counts, len(temperatures), counter, 0, cuda.kernel_of(fast))
        return out, counts
    if fast:
        raise RuntimeError("the CUDA library does not prove these fast logits; expected arithmetic='exact'")
    cold = temperatures == 1
    # The temperature is the last step of some rows and none of others: what is rounded to the type differs.
    for rows in (cold.nonzero()[:, 0], (~cold).nonzero()[:, 0]):
        for part in blocks.row_slices(len(rows), head.hidden.shape[1]):
            _logits_of(head, out, rows[part], temperatures, counter)
    report(counts, len(temperatures), counter, 0)
    return out, counts


def _logits_of(head: HeadArgs, out: Tensor, rows: Tensor, temperatures: Tensor, counter: Counter) -> None:
    """A few rows that all have a temperature, or none."""
    there, steps = rows.to(out.device), transforms.steps_of(head)
    divisors, warm = temperatures[rows][:, None].to(out.device), bool(temperatures[rows[0]] != 1)
    hidden = products.Rows.of(head.hidden[there])
    for ids in blocks.id_slices(head, len(rows)):
        operands = blocks.weight_of(head, ids)
        z = blocks.transformed(hidden, *operands, steps, torch.float32 if warm else out.dtype, counter)
        out[there, ids] = transforms.divided(z, divisors, out.dtype) if warm else z


def score(*flat: Any) -> tuple[Tensor, ...]:
    _native.arithmetic_code(flat[-2], "gradients")
    args = ScoreArgs.of(flat)
    core.check_known(args, frozenset("head support token_ids ignore_index outputs top_k summaries".split()))
    results, counter, undecided = Results.zeros(args), Counter(), 0
    by_cuda = cuda.makes_score(args)
    fast = args.head.arithmetic == "fast"
    temperatures = checked(args.head, args.support, by_cuda=by_cuda)
    rows = torch.arange(args.head.hidden.shape[0])
    if args.token_ids is not None:
        ids = args.token_ids.cpu()
        core.check_ids(ids, args.head.vocab_size, args.ignore_index)
        rows = rows if ids.ndim == 2 else rows[ids != args.ignore_index]
    if by_cuda:
        found = cuda.score(args, results.summaries[:-1] if args.summaries else None)
        if int(found["status"][0]) == 0:  # else some number is not proven, and all are made here
            if args.summaries:
                results.summaries[-1] = fingerprint.fingerprint(args.head, args.support, args.token_ids)
            report(results.counts, len(rows), counter, 0, cuda.kernel_of(fast))
            made = (*args.outputs, *("top_k_ids", "top_k_logprobs") * bool(args.top_k))
            return tuple(results._replace(**{name: found[name] for name in made}))
        if fast:
            raise RuntimeError(
                "the CUDA library does not prove these scores of fast logits; expected arithmetic='exact'"
            )
    for whole in blocks.whole_rows(args.head, args.support, rows, temperatures, counter):
        sure = _fill(results, args, whole)
        for row in (~sure).nonzero()[:, 0].tolist():
            _fill_by_core(results, args, whole, row)
            undecided += 1
    if args.summaries:
        results.summaries[-1] = fingerprint.fingerprint(args.head, args.support, args.token_ids)
    report(results.counts, len(rows), counter, undecided)
    return tuple(results)


def _fill(results: Results, args: ScoreArgs, whole: Whole) -> Tensor:
    """Writes what is wanted of these rows; returns for which of them all is proven, [n]."""
    z, kept, places = whole.last, whole.kept, whole.places
    sums = folds.sums(z, kept)
    sure = sums.sure
    raw = folds.sums(whole.before, None) if "raw_logprobs" in args.outputs else None

    def write(name: str, found: tuple[Tensor, Tensor]) -> None:
        value, proven = found
        sure.logical_and_(proven.reshape(len(proven), -1).all(1))
        target = getattr(results, name)
        target[places] = value.reshape(len(value), *target.shape[1:])

    def exact(values: Tensor) -> tuple[Tensor, Tensor]:
        return values, torch.ones_like(values, dtype=torch.bool)

    ids = None if args.token_ids is None else args.token_ids[places].reshape(len(places), -1)
    if ids is not None:
        ignored = ids == args.ignore_index
        ids = torch.where(ignored, 0, ids)
    for name in args.outputs:
        if name == "logprobs":
            value, proven = folds.logprobs(_kept_at(z, kept, ids), sums)
            write(name, (torch.where(ignored, 0.0, value), proven | ignored))
        elif name == "raw_logprobs":
            write(name, folds.logprobs(whole.before.gather(1, ids), raw))
            sure &= raw.sure
        elif name == "rank":
            write(name, exact(order.rank(z, kept, ids[:, 0])))
        elif name == "argmax":
            write(name, exact(sums.first))
        elif name == "log_kept":  # of a support that leaves something out it is the core's
            write(name, (torch.zeros_like(sums.top, dtype=torch.float32), torch.full_like(sums.special, kept is None)))
        elif name == "mean_logits":
            write(name, folds.mean_logits(z, kept))
        else:
            write(name, getattr(folds, name)(sums))
    if args.top_k:
        top_ids, logits_of_them = order.top_k(z, kept, args.top_k)
        write("top_k_ids", exact(top_ids))
        write("top_k_logprobs", folds.logprobs(logits_of_them, sums))
    if args.summaries:
        results.summaries[places] = backward.Summary.of(sums).packed()
    return sure


def _kept_at(z: Tensor, kept: Tensor | None, ids: Tensor) -> Tensor:
    found = z.gather(1, ids)
    return found if kept is None else torch.where(order.is_kept(kept, ids), found, -torch.inf)


def _fill_by_core(results: Results, args: ScoreArgs, whole: Whole, row: int) -> None:
    kept = None if whole.kept is None else whole.kept[0 if whole.kept.shape[0] == 1 else row]
    place = whole.places[row]
    ids = None if args.token_ids is None else args.token_ids[place]
    found = core.scores_of_row(args, whole.before[row], float(whole.temperatures[row]), kept, ids)
    for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs"):
        if getattr(found, name).numel():
            getattr(results, name)[place] = getattr(found, name)[0].to(place.device)
