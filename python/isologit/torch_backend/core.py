"""What this backend leaves to the library's core on the CPU: single logits, and rows of logits whose results the
device's arithmetic does not decide.

A row of f32 logits is handed over as a head of its own: a hidden state of one element, 1, and these logits as the
weight [V, 1]. Its products are the logits, exactly; temperature, support and all outputs are then the core's.
"""

from typing import Any

import torch
from torch import Tensor

from isologit import _logits, _native, _score
from isologit._inputs import HeadArgs
from isologit._sample_of_logits import SampleOfLogitsArgs
from isologit._score import Results, ScoreArgs
from isologit._support import SupportArgs


def head_of(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, temperature: float = 1.0) -> HeadArgs:
    """Of tensors on the CPU, for the core's best kernel."""
    return HeadArgs(hidden, weight, bias, torch.full((1,), temperature), weight.shape[0])


def logits_of_pairs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, ids: Tensor, dtype: torch.dtype
) -> Tensor:
    """The logits of hidden[rows[i]] and weight[ids[i]], [n], on their device. `rows` ascend."""
    found = torch.empty(len(rows), dtype=dtype)
    several, counts = rows.cpu().unique_consecutive(return_counts=True)
    operands = hidden[several.to(hidden.device)].cpu()
    first = 0
    for row, count in enumerate(counts.tolist()):
        chosen = ids[first : first + count]
        head = head_of(operands[row : row + 1], weight[chosen].cpu(), None if bias is None else bias[chosen].cpu())
        found[first : first + count] = _logits.run(_logits.LogitsArgs(head, dtype))[0][0]
        first += count
    assert first == len(ids)
    return found.to(hidden.device)


def capped(z: Tensor, softcap: float, dtype: torch.dtype) -> Tensor:
    """softcap tanh(z / softcap) of f32 numbers [n], each rounded once to the type."""
    head = head_of(torch.ones(1, 1), z.cpu().reshape(-1, 1))._replace(softcap=softcap)
    return _logits.run(_logits.LogitsArgs(head, dtype))[0][0].to(z.device)


def scores_of_row(
    args: ScoreArgs, logits: Tensor, temperature: float, mask: Tensor | None, token_ids: Tensor | None
) -> Results:
    """All that `args` asks for, of one row of f32 logits [V] before temperature; mask [V], token_ids [] or [K]."""
    head = head_of(torch.ones(1, 1), logits.cpu().reshape(-1, 1), temperature=temperature)
    support = SupportArgs(None if mask is None else mask.cpu().reshape(1, -1))
    ids = None if token_ids is None else token_ids.cpu()[None].contiguous()
    return _score.run(args._replace(head=head, support=support, token_ids=ids, summaries=False))


def check_head(head: HeadArgs, temperatures: Tensor, zero: bool = False) -> None:
    """What the core says of the head's numbers, by a call without rows; and of temperatures, which are one a row."""
    rows, size = head.weight.shape
    if size == 0:
        raise ValueError(f"hidden: shape {list(head.hidden.shape)}; expected at least 0 rows and 1 column")
    bias = None if head.bias is None else torch.empty(head.bias.shape[0], dtype=head.bias.dtype)
    plain = head_of(torch.empty(0, 1), torch.empty(rows, 1), bias)
    numbers = ("vocab_size", "softcap", "scale", "divide", "transform_order")
    plain = plain._replace(**{name: getattr(head, name) for name in numbers})
    assert size == head.hidden.shape[1]
    _logits.run(_logits.LogitsArgs(plain, torch.float32))
    check_temperatures(temperatures, zero)


def check_temperatures(temperatures: Tensor, zero: bool = False) -> None:
    """Of all rows or one, on the CPU; whether 0 is one."""
    wrong = ~(((temperatures > 0) | (zero & (temperatures == 0))) & temperatures.isfinite())
    for i in wrong.nonzero()[:1, 0].tolist():
        or_zero = ", or 0" if zero else ""
        raise ValueError(f"temperatures[{i}]: {float(temperatures[i]):g}; expected a finite number above 0{or_zero}")


def check_ids(token_ids: Tensor, vocab_size: int, ignore_index: int) -> None:
    """token_ids on the CPU."""
    wrong = ((token_ids < 0) | (token_ids >= vocab_size)) & (token_ids != ignore_index)
    for place in wrong.reshape(-1).nonzero()[:1, 0].tolist():
        found = int(token_ids.reshape(-1)[place])
        raise ValueError(f"token_ids[{place}]: {found} is outside the vocabulary [0, {vocab_size})")


def check_draws(temperatures: Tensor, draws: dict[str, Tensor]) -> None:
    """What the core says of the numbers of samples, on the CPU, by draws from rows of one logit; temperatures [N]."""
    logits = torch.zeros(len(temperatures), 1)
    SampleOfLogitsArgs(logits, temperatures.contiguous(), **draws, threads=1, processors=[], kernel="").draw()


def check_known(args: Any, known: frozenset[str]) -> None:
    """Refuses what this backend was not told of: an argument that it would ignore."""
    for name, value in args._asdict().items():
        if name not in known and value is not None:
            raise NotImplementedError(
                f"{name} is given, which kernel 'torch' does not take; leave it out, or pass tensors on the CPU "
                "without kernel='torch'"
            )


def check_listed(name: str, ids: Tensor, vocab_size: int) -> None:
    """The ids of lists, on the CPU."""
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if len(wrong):
        raise ValueError(f"{name}: {int(wrong[0])}; expected ids of the vocabulary [0, {vocab_size})")


def check_kernel(kernel: str, device: torch.device) -> None:
    """One of the library's kernels is not for other devices than the CPU."""
    if kernel != _native.TORCH:
        _native.check_kernel(kernel)
        if kernel and device.type != "cpu":
            raise ValueError(f"kernel is {kernel!r}, and the tensors are on {device}; expected 'torch' or ''")
