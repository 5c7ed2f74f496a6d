"""Tensors of torch: scores, logits, samples and losses as operators, so that autograd and torch.compile know them."""

from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native
from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, Samples
from isologit._sample_of_logits import SampleOfLogitsArgs
from isologit._score import Results, ScoreArgs
from isologit._torch import first_calls, operators

_native.use_openmp()
first_calls.resolve()


def score(args: ScoreArgs, gradients: str, dweight_accumulate: Tensor | None) -> Results:
    check_accumulator(dweight_accumulate, args.head.weight)
    summaries = _has_gradient(args.head)
    args = args._replace(summaries=summaries)
    return Results(*operators.score(*args.flat(), gradients, dweight_accumulate))


def logits(head: HeadArgs, dtype: Any, gradients: str, dweight_accumulate: Tensor | None) -> tuple[Tensor, Tensor]:
    check_accumulator(dweight_accumulate, head.weight)
    return operators.logits(*head, torch.float32 if dtype is None else dtype, gradients, dweight_accumulate)


def sample(args: SampleArgs) -> Samples:
    head = args.head
    operands = ("hidden", "weight", "bias", "lora_a", "lora_b")
    detached = {name: None if getattr(head, name) is None else getattr(head, name).detach() for name in operands}
    args = args._replace(head=head._replace(**detached))
    return Samples(*operators.sample(*args.flat()))


def sample_of_logits(args: SampleOfLogitsArgs) -> Samples:
    return Samples(*operators.sample_of_logits(args.logits.detach(), *args[1:]))


def cut_mask_of_logits(args: SampleOfLogitsArgs) -> Tensor:
    return operators.cut_mask_of_logits(args.logits.detach(), *args[1:])


def _has_gradient(head: HeadArgs) -> bool:
    """Whether autograd wants one of what is made of this head."""
    return _inputs.wants_gradient(head.hidden, head.weight, head.bias, head.lora_a, head.lora_b)


def check_accumulator(buffer: Tensor | None, weight: Tensor) -> None:
    if buffer is None:
        return
    _inputs.require_one_device(weight=weight, dweight_accumulate=buffer)
    if buffer.shape != weight.shape or buffer.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"dweight_accumulate: {buffer.dtype} {list(buffer.shape)}; expected torch.float32, torch.bfloat16 or "
            f"torch.float16 {list(weight.shape)}, as the weight"
        )
    if not _inputs.rows_are_adjacent(buffer):
        raise ValueError(f"dweight_accumulate: strides are {list(buffer.stride())}; expected a last stride of 1")
    if not weight.requires_grad:
        raise ValueError("dweight_accumulate is given, but the weight is frozen: expected one that requires a gradient")
    if buffer.requires_grad:
        raise ValueError("dweight_accumulate requires a gradient itself; expected a plain buffer")
