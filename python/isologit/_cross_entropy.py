"""The cross entropy of a head, with a z-loss."""

from typing import Any

import numpy as np

from isologit import _inputs, _native
from isologit._docstrings import documented
from isologit._inputs import Array
from isologit._rounding import sum_of_products
from isologit._score import score

_REDUCTIONS = ("mean", "sum", "none")


def reduced_losses(
    logprobs: np.ndarray, lse: np.ndarray | None, target: np.ndarray, ignore_index: int, z_loss: float, reduction: str
) -> np.ndarray:
    """Of f32 [N] that `score` gave: the losses [N], or their mean or sum [], each rounded once."""
    products = [(-1.0, logprobs)]
    if lse is not None:
        products.append((z_loss, lse, lse))
    losses = np.where(target == ignore_index, np.float32(0), sum_of_products(*products))
    if reduction == "none":
        return losses
    negative, ids = -losses, np.ascontiguousarray(target)
    mean = reduction == "mean"
    loss = _native.reduce_losses(negative.ctypes.data, len(negative), ids.ctypes.data, ignore_index, mean)
    return np.array(loss, np.float32)


def upstream_of_scores(
    upstream: np.ndarray, lse: np.ndarray | None, target: np.ndarray, ignore_index: int, z_loss: float, reduction: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """From the gradient of reduced_losses those of logprobs and lse [N], each rounded once."""
    ignored = target == ignore_index
    if reduction == "mean":
        each = np.float32(-_native.mean_loss_upstream(float(upstream), max(int((~ignored).sum()), 1)))
    else:
        each = upstream
    each = np.where(ignored, np.float32(0), each)
    return sum_of_products((-1.0, each)), None if lse is None else sum_of_products((2.0, z_loss, lse, each))


@documented
def linear_cross_entropy(
    hidden: Array,
    weight: Array,
    target: Any,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    z_loss: float = 0.0,
    return_report: bool = False,
    **options: Any,
) -> Array | tuple[Array, _native.Report]:
    """The cross entropy of target under a language model's head, rounded once.

    The loss of a row is -logprob + z_loss lse^2: this real number of the f32 logprob of its target and the f32 lse that
    `score` gives, rounded once to f32. Then "mean" is the real sum of these f32 losses over their number, and "sum"
    that sum, each rounded once. Rows whose target is ignore_index have a loss of 0 and count for nothing; a mean of
    none is NaN.

    Parameters
    ----------
    <inputs>
    target : int64, [...]
        The id to score from each row; nothing is shifted. Ids from 0 to vocab_size - 1, or ignore_index.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": a loss for each row.
    ignore_index : int, default -100
    z_loss : float, default 0.0
        The factor of lse^2, rounded to f32: finite and not below 0. 0 adds nothing.
    return_report : bool, default False
        Whether to return the Report of the call as well. Not under torch.compile.
    **options
        bias, temperature, softcap, scale, divide, vocab_size, mask, kept, banned, arithmetic, gradients,
        dweight_accumulate, threads, kernel and dtype, as of `score`.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        f32, in nats, of the kind of hidden: [], or [...] without reduction. With return_report a pair of this and the
        Report, which names the kernel and the arithmetic that made the logits.

    <raises>

    Notes
    -----
    Differentiable in hidden, weight and bias. With upstream g, and g/n for a mean of n rows, each row's upstream is -g
    of its logprob and 2 z_loss lse g of its lse, every one of these rounded once to f32; the rest is as in `score`.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")
    if not 0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss is {z_loss}; expected a finite number not below 0")
    hidden = _inputs.as_floats(hidden, options.get("dtype"))
    ids = _inputs.token_ids_of(target, hidden, "target")
    if ids.ndim != 1:
        raise ValueError(f"target: {ids.shape[1]} ids a row; expected one")
    outputs = ("logprobs", "lse") if z_loss else ("logprobs",)
    scores = score(hidden, weight, target, outputs=outputs, ignore_index=ignore_index, **options)
    lse = None if scores.lse is None else scores.lse.reshape(-1)
    arguments = (scores.logprobs.reshape(-1), lse, ids, ignore_index, z_loss, reduction)
    if _inputs.is_tensor(hidden):
        from isologit._torch import losses

        loss = losses.reduced_losses(*arguments)
    else:
        loss = reduced_losses(*arguments)
    loss = loss.reshape(hidden.shape[:-1]) if reduction == "none" else loss
    return (loss, scores.report) if return_report else loss
