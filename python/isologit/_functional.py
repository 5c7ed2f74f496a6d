"""Scores and logits of torch tensors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _torch_args, _torch_inputs, _torch_ops


class LogprobsOutput(NamedTuple):
    """f32; shapes [...] of the rows, top_k_* [..., k]. None where not asked for."""

    logprobs: Tensor
    entropy: Tensor | None = None
    lse: Tensor | None = None
    top_k_ids: Tensor | None = None
    top_k_logprobs: Tensor | None = None


def _check_accumulator(buffer: Tensor | None, weight: Tensor) -> None:
    if buffer is None:
        return
    _torch_args.require_cpu(dweight_accumulate=buffer)
    if buffer.shape != weight.shape or buffer.dtype not in _torch_args.DTYPES:
        raise ValueError(
            f"dweight_accumulate: {buffer.dtype} {list(buffer.shape)}; expected torch.float32, torch.bfloat16 or "
            f"torch.float16 {list(weight.shape)}, as the weight"
        )
    if not _torch_args.rows_are_adjacent(buffer):
        raise ValueError(f"dweight_accumulate: strides are {list(buffer.stride())}; expected a last stride of 1")
    if not weight.requires_grad:
        raise ValueError("dweight_accumulate is given, but the weight is frozen: expected one that requires a gradient")
    if buffer.requires_grad:
        raise ValueError("dweight_accumulate requires a gradient itself; expected a plain buffer")


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    vocab_size: int | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    kept: Sequence[Sequence[int]] | None = None,
    banned: Sequence[Sequence[int]] | None = None,
    return_entropy: bool = False,
    return_lse: bool = False,
    top_k: int = 0,
    arithmetic: str = "exact",
    gradients: str = "fast",
    dweight_accumulate: Tensor | None = None,
    threads: int = 0,
    kernel: str = "",
) -> LogprobsOutput:
    """Logprobs of token_ids from hidden [..., H] under the head weight [V, H], as CONTRACT.md defines them.

    token_ids [...] or [..., K]: the ids to score from each row; nothing is shifted. One id a row: rows with
    ignore_index are 0 in every output. temperature: a number, or a tensor [...]. softcap, then scale (times) or divide,
    then temperature are applied to the logits. vocab_size: the real vocabulary, when the weight has rows of padding.
    mask: bool [V] or [..., V], True where an id stays; or kept and banned: a list of ids for each row. threads 0: as
    many as the process may use. arithmetic: that of the logits, "exact" or "fast" (sums in f32, in an order that the
    kernel alone fixes).

    Differentiable in hidden, weight and bias, through logprobs, entropy, lse and top_k_logprobs. gradients: "fast" or
    "exact". dweight_accumulate: a tensor of the weight's shape that backward adds the gradient of the weight to, in the
    place of weight.grad.
    """
    _torch_args.require_cpu(hidden=hidden, weight=weight, bias=bias, token_ids=token_ids)
    rows = _torch_inputs.flatten(hidden, weight)
    lead = hidden.shape[:-1]
    size = weight.shape[0] if vocab_size is None else vocab_size
    if mask is not None and (kept is not None or banned is not None):
        raise ValueError("mask and lists of ids are given; expected one or the other")
    kept_offsets, kept_ids = _torch_inputs.lists(kept, rows.shape[0], "kept")
    banned_offsets, banned_ids = _torch_inputs.lists(banned, rows.shape[0], "banned")
    _check_accumulator(dweight_accumulate, weight)
    logprobs, entropy, lse, top_k_ids, top_k_logprobs, _ = _torch_ops.score(
        rows,
        weight,
        _torch_inputs.vector(bias),
        _torch_inputs.temperatures(temperature, hidden),
        size,
        softcap,
        scale,
        divide,
        arithmetic,
        threads,
        kernel,
        _torch_inputs.mask(mask, hidden, size),
        kept_offsets,
        kept_ids,
        banned_offsets,
        banned_ids,
        _torch_inputs.ids(token_ids, hidden),
        ignore_index,
        return_entropy,
        return_lse,
        top_k,
        gradients,
        dweight_accumulate,
    )
    return LogprobsOutput(
        logprobs.reshape(token_ids.shape),
        entropy.reshape(lead) if return_entropy else None,
        lse.reshape(lead) if return_lse else None,
        top_k_ids.reshape(*lead, top_k) if top_k else None,
        top_k_logprobs.reshape(*lead, top_k) if top_k else None,
    )


def logits(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    vocab_size: int | None = None,
    dtype: Any = torch.float32,
    arithmetic: str = "exact",
    gradients: str = "fast",
    dweight_accumulate: Tensor | None = None,
    threads: int = 0,
    kernel: str = "",
) -> Tensor:
    """Logits [..., V] of hidden [..., H] under weight [V, H], the last step rounded once to dtype.

    Differentiable in hidden, weight and bias; gradients and dweight_accumulate are those of linear_logprobs.
    """
    _torch_args.require_cpu(hidden=hidden, weight=weight, bias=bias)
    rows = _torch_inputs.flatten(hidden, weight)
    size = weight.shape[0] if vocab_size is None else vocab_size
    _check_accumulator(dweight_accumulate, weight)
    result = _torch_ops.logits(
        rows,
        weight,
        _torch_inputs.vector(bias),
        _torch_inputs.temperatures(temperature, hidden),
        size,
        softcap,
        scale,
        divide,
        arithmetic,
        threads,
        kernel,
        dtype,
        gradients,
        dweight_accumulate,
    )
    return result.reshape(*hidden.shape[:-1], size)
