"""Losses of policy optimization as functions of logprobs: real sums, rounded once. docs/losses.md defines them.

Tensors [B, T] are f32: a row is a sequence, of which `mask` says which tokens count. Differentiable in `logprobs`. They
may be on any device, where results are too; the processor computes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from isologit import _policy
from isologit._policy import KINDS, KL, Batch, Options, Sum
from isologit._real import rounded
from isologit._torch.losses import mean_over

__all__ = ["KINDS", "Sum", "kl", "mean", "policy_loss", "policy_loss_part", "ratio"]


def _check_f32(tensor: Tensor, name: str) -> None:
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name}: {tensor.dtype}; expected torch.float32")


def _f32(tensor: Tensor, name: str, shape: torch.Size | None = None) -> np.ndarray:
    _check_f32(tensor, name)
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"{name}: shape is {list(tensor.shape)}; expected {list(shape)}, as logprobs")
    return tensor.detach().cpu().numpy()


class _OfLogprobs(torch.autograd.Function):
    """A result in arrays, and what makes of its upstream the gradient of logprobs."""

    @staticmethod
    def forward(ctx: Any, logprobs: Tensor, value: np.ndarray, gradient: Any) -> Tensor:
        ctx.gradient = gradient
        return torch.from_numpy(np.array(value, np.float32)).to(logprobs.device)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient = torch.from_numpy(ctx.gradient(_f32(upstream.contiguous(), "upstream")))
        return gradient.to(upstream.device), None, None


def _each(logprobs: Tensor, others: np.ndarray, value: Any, slope: Any) -> Tensor:
    mine = _f32(logprobs, "logprobs")

    def gradient(upstream: np.ndarray) -> np.ndarray:
        flat = (mine.ravel(), others.ravel(), upstream.ravel())
        return rounded(lambda logprob, other, g: slope(logprob, other) * g, *flat).reshape(mine.shape)

    found = rounded(value, mine.ravel(), others.ravel()).reshape(mine.shape)
    return _OfLogprobs.apply(logprobs, found, gradient)


def ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """e^(logprob - old_logprob) of each, rounded once."""

    def value(logprob: Any, old: Any) -> Any:
        return (logprob - old).exp()

    return _each(logprobs, _f32(old_logprobs, "old_logprobs", logprobs.shape), value, value)


def kl(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k3") -> Tensor:
    """Estimates of KL(policy || reference) from tokens of the policy, one a token, each rounded once.

    With d = logprob - ref_logprob: "k1" is d, "k2" d^2 / 2, "k3" e^-d + d - 1.
    """
    if kind not in KL:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KL)}")
    return _each(logprobs, _f32(ref_logprobs, "ref_logprobs", logprobs.shape), *KL[kind])


def _given(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ref_logprobs: Tensor | None,
    options: Options,
) -> tuple[Batch, Options]:
    if options.kind not in KINDS:
        raise ValueError(f"kind is {options.kind!r}; expected one of {', '.join(KINDS)}")
    if logprobs.dim() != 2:
        raise ValueError(f"logprobs: shape is {list(logprobs.shape)}; expected [B, T], a sequence a row")
    if mask.dtype != torch.bool or mask.shape != logprobs.shape:
        raise ValueError(f"mask: {mask.dtype} {list(mask.shape)}; expected torch.bool {list(logprobs.shape)}")
    whole = options.kind == "gspo"
    if advantages.dim() == 1 and advantages.shape[0] == logprobs.shape[0]:
        advantages = advantages[:, None].expand(logprobs.shape)
    elif whole:
        raise ValueError(f"advantages: shape is {list(advantages.shape)}; gspo expects one a sequence")
    if (ref_logprobs is None) != (options.kl_weight == 0) or (whole and ref_logprobs is not None):
        raise ValueError(
            "ref_logprobs and a kl_weight other than 0 go together, and not with gspo; "
            f"found {'ref_logprobs' if ref_logprobs is not None else 'none'}, kl_weight {options.kl_weight}"
        )
    if (options.max_length > 0) != (options.kind == "dr_grpo"):
        raise ValueError(f"max_length is {options.max_length}; dr_grpo expects the length that it divides by, others 0")
    numbers = [float(np.float32(x)) for x in options[1:-1]]
    if not np.isfinite(numbers).all() or min(numbers[3:]) <= 0 or min(numbers) < 0 or numbers[0] > 1:
        raise ValueError(f"{options}; expected finite numbers, not below 0, clip_low at most 1, and taus above 0")
    shape = logprobs.shape
    batch = Batch(
        _f32(logprobs, "logprobs"),
        _f32(old_logprobs, "old_logprobs", shape),
        _f32(advantages, "advantages", shape),
        mask.cpu().numpy(),
        None if ref_logprobs is None else _f32(ref_logprobs, "ref_logprobs", shape),
    )
    return batch, Options(options.kind, *numbers, options.max_length)


def policy_loss_part(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    kind: str = "grpo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ref_logprobs: Tensor | None = None,
    kl_weight: float = 0.0,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
    max_length: int = 0,
) -> Sum:
    """The part that these sequences have in a loss; parts of ranks and micro-batches are added up, and have a loss().

    advantages [B] or [B, T]. The arguments are those of policy_loss.
    """
    options = Options(kind, clip_low, clip_high, kl_weight, tau_positive, tau_negative, max_length)
    return _policy.partial(*_given(logprobs, old_logprobs, advantages, mask, ref_logprobs, options))


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    kind: str = "grpo",
    count: int | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ref_logprobs: Tensor | None = None,
    kl_weight: float = 0.0,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
    max_length: int = 0,
) -> Tensor:
    """The loss, to be minimised: the real sum of f32 terms over a number, rounded once.

    kind: "grpo", "dapo", "dr_grpo", "cispo", "gspo" or "sapo". count: how many sequences (dapo, cispo: tokens) the
    whole batch has, of which these are a part; by default these are the whole. A token's gradient depends on its own
    sequence and on count alone.
    """
    options = Options(kind, clip_low, clip_high, kl_weight, tau_positive, tau_negative, max_length)
    batch, options = _given(logprobs, old_logprobs, advantages, mask, ref_logprobs, options)
    part = _policy.partial(batch, options)
    count = part.count if count is None else count

    def gradient(upstream: np.ndarray) -> np.ndarray:
        return _policy.gradient(batch, options, np.float32(upstream), max(count, 1))

    return _OfLogprobs.apply(logprobs, part.loss(count), gradient)


def mean(values: Tensor, count: float | Tensor | None = None) -> Tensor:
    """The real sum of f32 values over count, or over their number, rounded once: `-mean(logprobs)` is a loss."""
    _check_f32(values, "values")
    if isinstance(count, Tensor):
        return mean_over(values, count.to(values.device), 0.0)
    return mean_over(values, None, float(values.numel() if count is None else count))
