"""Mean and sum losses: minus the mean, or the sum, of f32 logprobs, rounded once (CONTRACT.md 5)."""

from typing import Any

import torch
from torch import Tensor

from isologit import _native


@torch.library.custom_op("isologit::mean_loss", mutates_args=())
def mean_loss(logprobs: Tensor, target: Tensor, ignore_index: int, mean: bool) -> Tensor:
    """Of the f32 logprobs [N] of rows whose target is not ignore_index: their mean, or else their sum."""
    logprobs, target = logprobs.contiguous(), target.to(torch.int64).contiguous()
    loss = _native.reduce_losses(logprobs.data_ptr(), logprobs.shape[0], target.data_ptr(), ignore_index, mean)
    return logprobs.new_full((), loss)


@mean_loss.register_fake
def _(logprobs: Tensor, target: Tensor, ignore_index: int, mean: bool) -> Tensor:
    return logprobs.new_empty(())


@torch.library.custom_op("isologit::mean_loss_backward", mutates_args=())
def mean_loss_backward(upstream: Tensor, target: Tensor, ignore_index: int, mean: bool) -> Tensor:
    """The gradient of each logprob [N]."""
    counts = target != ignore_index
    n = int(counts.sum()) if mean else 1
    each = _native.mean_loss_upstream(upstream.item(), max(n, 1))
    return upstream.new_full(target.shape, each).masked_fill(~counts, 0)


@mean_loss_backward.register_fake
def _(upstream: Tensor, target: Tensor, ignore_index: int, mean: bool) -> Tensor:
    return upstream.new_empty(target.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, bool], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.ignore_index, ctx.mean = inputs[2:]


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
    (target,) = ctx.saved_tensors
    return mean_loss_backward(upstream, target, ctx.ignore_index, ctx.mean), None, None, None


mean_loss.register_autograd(_backward, setup_context=_setup)
