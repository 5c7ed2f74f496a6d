"""The cross entropy of a head, with label smoothing and a z-loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from isologit import _inputs, _native, _numbers
from isologit._docstrings import documented
from isologit._inputs import Array
from isologit._rounding import sum_of_products
from isologit._score import Scores, score

_REDUCTIONS = ("mean", "sum", "none")


class LossOptions(NamedTuple):
    """What `linear_cross_entropy` is told of its losses."""

    ignore_index: int
    label_smoothing: float
    z_loss: float
    reduction: str


@_numbers.usual_rounding()
def reduced_losses(
    logprobs: np.ndarray,
    lse: np.ndarray | None,
    mean_logits: np.ndarray | None,
    target: np.ndarray,
    options: LossOptions,
) -> np.ndarray:
    """Of f32 [N] that `score` gave: the losses [N], or their mean or sum [], each rounded once."""
    smoothing = np.float32(options.label_smoothing)
    products = [(-1.0, logprobs)]
    if smoothing:
        # -(1 - smoothing) logprob, which for an id outside the support is an infinity, and nothing when smoothing is 1.
        finite = np.where(np.isneginf(logprobs), np.float32(0), logprobs)
        products = [*products, (smoothing, finite)] if smoothing < 1 else []
        products += [(smoothing, lse), (-smoothing, mean_logits)]
    if options.z_loss:
        products.append((options.z_loss, lse, lse))
    losses = np.where(target == options.ignore_index, np.float32(0), sum_of_products(*products))
    if options.reduction == "none":
        return losses
    negative, ids = -losses, np.ascontiguousarray(target)
    mean = options.reduction == "mean"
    loss = _native.reduce_losses(negative.ctypes.data, len(negative), ids.ctypes.data, options.ignore_index, mean)
    return np.array(loss, np.float32)


@_numbers.usual_rounding()
def upstream_of_scores(
    upstream: np.ndarray, lse: np.ndarray | None, target: np.ndarray, options: LossOptions
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """From the gradient of reduced_losses those of logprobs, lse and mean_logits [N], each rounded once."""
    ignored = target == options.ignore_index
    if options.reduction == "mean":
        upstream = np.float32(-_native.mean_loss_upstream(float(upstream), max(int((~ignored).sum()), 1)))
    each = np.where(ignored, np.float32(0), upstream)
    smoothing = np.float32(options.label_smoothing)
    of_logprobs = sum_of_products((-1.0, each), (smoothing, each))
    if lse is None:
        return of_logprobs, None, None
    of_lse = sum_of_products((smoothing, each), (2.0, options.z_loss, np.where(each == 0, np.float32(0), lse), each))
    return of_logprobs, of_lse, sum_of_products((-smoothing, each)) if smoothing else None


@documented
def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    target: Any,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    return_report: bool = False,
    **options: Any,
) -> Array | tuple[Array, _native.Report]:
    """The cross entropy of target under a language model's head, rounded once.

    The loss of a row is -(1 - label_smoothing) logprob + label_smoothing (lse - mean_logits) + z_loss lse^2: this real
    number of what `score` gives for its target in f32, rounded once to f32. (lse - mean_logits is the mean of -logprob
    over the support.) Then "mean" is the real sum of these f32 losses over their number, and "sum" that sum, each
    rounded once. Rows whose target is ignore_index have a loss of 0 and count for nothing; a mean of none is NaN.

    Parameters
    ----------
    <inputs>
    target : int64, [...]
        The id to score from each row; nothing is shifted. Ids from 0 to vocab_size - 1, or ignore_index.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": a loss for each row.
    ignore_index : int, default -100
    label_smoothing : float, default 0.0
        The share of the loss that is spread evenly over the support, 0 to 1, rounded to f32. 0 adds nothing.
    z_loss : float, default 0.0
        The factor of lse^2, rounded to f32: finite and not below 0. 0 adds nothing.
    return_report : bool, default False
        Whether to return the Report of the call as well. Not under torch.compile.
    **options
        bias, temperature, softcap, scale, divide, transform_order, vocab_size, lora, mask, kept, banned, arithmetic,
        gradients, dweight_accumulate, threads, processors, kernel and dtype, as of `score`.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        f32, in nats, of the kind of hidden: [], or [...] without reduction. With return_report a pair of this and the
        Report, which names the kernel and the arithmetic that made the logits.

    <raises>

    Notes
    -----
    Differentiable in hidden, weight, bias and the factors of lora. With upstream g of a row's loss (g / n for a mean of
    n rows), that of its logprob is -(1 - label_smoothing) g, of its lse label_smoothing g + 2 z_loss lse g, and of its
    mean_logits -label_smoothing g, every one of these rounded once to f32; the rest is as in `score`.
    """
    return losses_by(
        score,
        hidden,
        weight,
        target,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        return_report=return_report,
        **options,
    )


def losses_by(
    scored_by: Callable[..., Scores],
    hidden: Array,
    weight: Any,
    target: Any,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    return_report: bool = False,
    **options: Any,
) -> Array | tuple[Array, _native.Report]:
    """linear_cross_entropy over any function that scores."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")
    if not _numbers.traced():
        label_smoothing, z_loss = _numbers.f32(label_smoothing, "label_smoothing"), _numbers.f32(z_loss, "z_loss")
        ignore_index = _numbers.integer(ignore_index, "ignore_index")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected 0 to 1")
    if not 0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss is {z_loss}; expected a finite number not below 0")
    hidden = _inputs.as_floats(hidden, options.get("dtype"))
    ids = _inputs.token_ids_of(target, hidden, "target")
    if ids.ndim != 1:
        raise ValueError(f"target: {ids.shape[1]} ids a row; expected one")
    outputs = ("logprobs", *("lse",) * bool(z_loss or label_smoothing), *("mean_logits",) * bool(label_smoothing))
    scores = scored_by(hidden, weight, target, outputs=outputs, ignore_index=ignore_index, **options)
    values = (None if x is None else x.reshape(-1) for x in (scores.logprobs, scores.lse, scores.mean_logits))
    arguments = (*values, ids, LossOptions(ignore_index, label_smoothing, z_loss, reduction))
    if _inputs.is_tensor(hidden):
        from isologit._torch import losses

        loss = losses.reduced_losses(*arguments)
    else:
        loss = reduced_losses(*arguments)
    loss = loss.reshape(hidden.shape[:-1]) if reduction == "none" else loss
    return (loss, scores.report) if return_report else loss
