"""Samples, and the functions of given logits. Draws and cuts that the CUDA library does not make, and gradients of
given logits, are the core's, a few rows of logits copied to the CPU at a time; log_softmax and its kin are made on the
device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native, _of_logits_torch
from isologit._sample import SampleArgs, Samples
from isologit._sample_of_logits import SampleOfLogitsArgs
from isologit._torch import cuda
from isologit.torch_backend import blocks, core, folds, limits, transforms
from isologit.torch_backend.blocks import Counter
from isologit.torch_backend.score import checked, report

_CUTS = {"min_p": 0, "top_k": 0, "top_p": 1}  # and what cuts nothing
_DRAWS = ("seeds", "sequence_ids", "positions", *_CUTS)


def _row_slices(logits: Tensor) -> Iterator[slice]:
    return limits.slices(logits.shape[0], limits.ROWS // (8 * max(1, logits.shape[1])))


def _of_rows(values: Tensor, rows: slice | Tensor) -> Tensor:
    """Of [1] or [N] on the CPU."""
    return values if values.shape[0] == 1 else values[rows].contiguous()


def sample(*flat: Any) -> tuple[Tensor, ...]:
    args, counter = SampleArgs.of(flat), Counter()
    core.check_known(args, frozenset(("head", "support", *_DRAWS)))
    head, results = args.head, args.zeros()
    fast, by_cuda = head.arithmetic == "fast", cuda.makes_sample(args)
    temperatures = checked(head, args.support, zero=True, by_cuda=by_cuda)
    draws = {name: getattr(args, name).cpu() for name in _DRAWS}
    places = torch.arange(head.hidden.shape[0])
    if by_cuda:
        core.check_draws(temperatures, draws)
        found = cuda.sample(args, [name for name, none in _CUTS.items() if bool((draws[name] != none).any())])
        if int(found.pop("status")[0]) == 0:  # else some draw is not proven, and all are made here
            report(results.counts, len(places), counter, 0, cuda.kernel_of(fast))
            return tuple(results._replace(**found))
        if fast:
            raise RuntimeError(
                "the CUDA library does not prove these samples of fast logits; expected arithmetic='exact'"
            )
    # The core divides by the temperature, and takes one of 0 for the greatest logit.
    for whole in blocks.whole_rows(head, args.support, places, torch.ones(len(places)), counter):
        rows = whole.places.cpu()
        z = folds.kept_logits(whole.before, whole.kept, slice(None)).cpu()
        of_rows = {name: _of_rows(values, rows) for name, values in draws.items()}
        _draw(results, whole.places, z, temperatures[rows].contiguous(), of_rows, head)
    report(results.counts, len(places), counter, 0)
    return tuple(results)


def _draw(
    results: Samples, places: Any, z: Tensor, temperatures: Tensor, draws: dict[str, Tensor], running: Any
) -> None:
    args = SampleOfLogitsArgs(
        z, temperatures, **draws, threads=running.threads, processors=running.processors, kernel=""
    )
    for target, found in zip(results[:-1], args.draw()[:-1], strict=True):
        target[places] = found.to(target.device)


def sample_of_logits(*flat: Any) -> tuple[Tensor, ...]:
    args = SampleOfLogitsArgs(*flat)
    core.check_kernel(args.kernel, args.logits.device)
    results = args.zeros()
    for rows, of_rows, temperatures in _split(args):
        _draw(results, rows, args.logits[rows].cpu(), temperatures, of_rows, args)
    report(results.counts, args.logits.shape[0], Counter(), 0)
    return tuple(results)


def cut_mask_of_logits(*flat: Any) -> Tensor:
    args = SampleOfLogitsArgs(*flat)
    core.check_kernel(args.kernel, args.logits.device)
    mask = args.mask_zeros()
    for rows, of_rows, temperatures in _split(args):
        on_cpu = args._replace(logits=args.logits[rows].cpu(), temperatures=temperatures, **of_rows, kernel="")
        mask[rows] = on_cpu.cut_mask().to(mask.device)
    return mask


def _split(args: SampleOfLogitsArgs) -> Iterator[tuple[slice, dict[str, Tensor], Tensor]]:
    """Rows at a time, with what they draw by and their temperatures, on the CPU."""
    draws = {name: getattr(args, name).cpu() for name in _DRAWS}
    temperatures = args.temperatures.cpu()
    for rows in _row_slices(args.logits):
        yield rows, {name: _of_rows(values, rows) for name, values in draws.items()}, _of_rows(temperatures, rows)


def of_logits(*args: Any) -> Tensor:
    logits, temperatures, token_ids, ignore_index, output, *_ = args
    _inputs.dtype_code(logits, "logits")
    by_cuda = cuda.makes_of_logits(logits, token_ids, args[-1])
    if not by_cuda:
        core.check_kernel(args[-1], logits.device)
    result = _of_logits_torch.output_of(logits, token_ids, output)
    on_cpu = temperatures.cpu()
    core.check_temperatures(on_cpu)
    if token_ids is not None:
        core.check_ids(token_ids.cpu(), logits.shape[1], ignore_index)
    if by_cuda:
        found, status = cuda.library().of_logits(
            logits, output, token_ids, temperatures=temperatures, ignore_index=ignore_index
        )
        if int(status[0]) == 0:  # else some number is not proven, and all are made here
            return found
    warm = bool((on_cpu != 1).any())
    for rows in _row_slices(logits):
        z = logits[rows].float()  # of f32 the caller's own memory
        if warm:
            z, given = torch.empty_like(z, memory_format=torch.contiguous_format), z
            divisors = _of_rows(temperatures, rows)[:, None]
            for part in limits.slices(z.shape[1], folds.columns(len(z))):
                z[:, part] = transforms.divided(given[:, part], divisors)
        ids = None if token_ids is None else token_ids[rows]
        sure = _fill(result[rows], z, ids, ignore_index, output)
        left = rows.start + (~sure).nonzero()[:, 0]
        if len(left):
            result[left] = _of_core(left, *args).to(result.device)
    return result


def _fill(result: Tensor, z: Tensor, ids: Tensor | None, ignore_index: int, output: str) -> Tensor:
    """Writes the output of rows of f32 logits; returns for which of them it is proven."""
    sums = folds.sums(z, None)
    sure = sums.sure
    if output == "log_softmax":
        for part in limits.slices(z.shape[1], folds.columns(len(z))):
            result[:, part], proven = folds.logprobs(z[:, part], sums)
            sure &= proven.all(1)
        return sure
    if output == "logprobs":
        ignored = ids == ignore_index
        value, proven = folds.logprobs(z.gather(1, torch.where(ignored, 0, ids)), sums)
        value, proven = torch.where(ignored, 0.0, value), proven | ignored
    else:
        value, proven = getattr(folds, output)(sums)
        value = value[:, 0]
    result.copy_(value)
    return sure & proven.all(1)


def _of_core(rows: Tensor, *args: Any) -> Tensor:
    logits, temperatures, token_ids, ignore_index, output, threads, processors, _ = args
    ids = None if token_ids is None else token_ids[rows].cpu()
    operands = (logits[rows].cpu(), _of_rows(temperatures, rows).cpu(), ids)
    return _of_logits_torch.run_of_logits(*operands, ignore_index, output, _native.Running(threads, processors, ""))


def of_logits_backward(g: Tensor, *args: Any) -> Tensor:
    logits, temperatures, token_ids, ignore_index, output, threads, processors, _ = args
    result = torch.empty_like(logits, dtype=torch.float32, memory_format=torch.contiguous_format)
    for rows in _row_slices(logits):
        ids = None if token_ids is None else token_ids[rows].cpu()
        operands = (g[rows].cpu(), logits[rows].cpu(), _of_rows(temperatures, rows).cpu(), ids)
        found = _of_logits_torch.run_of_logits_backward(
            *operands, ignore_index, output, _native.Running(threads, processors, "")
        )
        result[rows] = found.to(result.device)
    return result
