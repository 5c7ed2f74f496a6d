"""isologit::losses and isologit::mean_over: from scores to losses, and back."""

from typing import Any

import numpy as np
from torch import Tensor

from isologit import _cross_entropy, _policy
from isologit._cross_entropy import LossOptions
from isologit._torch.schema import operator

_OPTIONS = "Tensor target, SymInt ignore_index, float label_smoothing, float z_loss, str reduction"
_SIZE = len(LossOptions._fields)


def reduced_losses(*arguments: Any) -> Tensor:
    """_cross_entropy.reduced_losses of tensors."""
    *tensors, options = arguments
    return _losses(*tensors, *options)


def _arrays(flat: tuple[Any, ...]) -> tuple[Any, ...]:
    arrays = (None if tensor is None else tensor.cpu().numpy() for tensor in flat[:-_SIZE])
    return *arrays, LossOptions(*flat[-_SIZE:])


def _run(*flat: Any) -> Tensor:
    return flat[0].new_tensor(_cross_entropy.reduced_losses(*_arrays(flat)))


def _run_backward(*flat: Any) -> tuple[Tensor, ...]:
    found = _cross_entropy.upstream_of_scores(*_arrays(flat))
    return tuple(flat[0].new_tensor(np.empty(0) if array is None else array) for array in found)


def _like_losses(*flat: Any) -> Tensor:
    return flat[0].new_empty(flat[0].shape if flat[-1] == "none" else ())


def _like_upstream(*flat: Any) -> tuple[Tensor, ...]:
    upstream, lse, target, options = *flat[:3], LossOptions(*flat[3:])
    there = (True, lse is not None, lse is not None and options.label_smoothing != 0)
    return tuple(upstream.new_empty(target.shape if is_there else 0) for is_there in there)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[3])
    ctx.options = inputs[4:]


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    found = _losses_backward(upstream, *ctx.saved_tensors, *ctx.options)
    wanted = (gradient if needs else None for gradient, needs in zip(found, ctx.needs_input_grad, strict=False))
    return *wanted, *(None,) * 5


_losses = operator(
    "losses", f"(Tensor logprobs, Tensor? lse, Tensor? mean_logits, {_OPTIONS}) -> Tensor", _run, _like_losses
)
_losses.register_autograd(_backward, setup_context=_setup)
_losses_backward = operator(
    "losses_backward",
    f"(Tensor upstream, Tensor? lse, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _like_upstream,
)


def _quotient(values: Tensor, count: Tensor | None, number: float) -> Tensor:
    return values.new_tensor(_policy.quotient(values.cpu().numpy().ravel(), number if count is None else float(count)))


def _setup_mean(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, count, ctx.number = inputs
    ctx.save_for_backward(count)
    ctx.shape = values.shape


def _backward_mean(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
    of_each = mean_over(upstream.reshape(1), ctx.saved_tensors[0], ctx.number)
    return of_each.expand(ctx.shape).contiguous(), None, None


# The real sum of f32 values over a tensor's or another number, rounded once.
mean_over = operator(
    "mean_over",
    "(Tensor values, Tensor? count, float number) -> Tensor",
    _quotient,
    lambda values, *_: values.new_empty(()),
)
mean_over.register_autograd(_backward_mean, setup_context=_setup_mean)
