"""isologit::losses: from scores to losses, and back."""

from typing import Any

import numpy as np
from torch import Tensor

from isologit import _cross_entropy
from isologit._torch.schema import operator

_OPTIONS = "Tensor? lse, Tensor target, SymInt ignore_index, float z_loss, str reduction"


def _arrays(values: Tensor, lse: Tensor | None, target: Tensor, *options: Any) -> tuple[Any, ...]:
    return values.numpy(), None if lse is None else lse.numpy(), target.numpy(), *options


def _losses(*flat: Any) -> Tensor:
    return flat[0].new_tensor(_cross_entropy.reduced_losses(*_arrays(*flat)))


def _upstream(*flat: Any) -> tuple[Tensor, ...]:
    found = _cross_entropy.upstream_of_scores(*_arrays(*flat))
    return tuple(flat[0].new_tensor(np.empty(0) if array is None else array) for array in found)


def _like_losses(logprobs: Tensor, *rest: Any) -> Tensor:
    return logprobs.new_empty(logprobs.shape if rest[-1] == "none" else ())


def _like_upstream(upstream: Tensor, lse: Tensor | None, target: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return upstream.new_empty(target.shape), upstream.new_empty(0 if lse is None else target.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:3])
    ctx.options = inputs[3:]


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    lse, target = ctx.saved_tensors
    of_logprobs, of_lse = upstream_of_scores(upstream, lse, target, *ctx.options)
    return of_logprobs, None if lse is None else of_lse, *(None,) * 4


reduced_losses = operator("losses", f"(Tensor logprobs, {_OPTIONS}) -> Tensor", _losses, _like_losses)
reduced_losses.register_autograd(_backward, setup_context=_setup)
upstream_of_scores = operator(
    "losses_backward", f"(Tensor upstream, {_OPTIONS}) -> (Tensor, Tensor)", _upstream, _like_upstream
)
