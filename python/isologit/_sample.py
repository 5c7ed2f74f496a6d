"""Samples from torch tensors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _native, _torch_args, _torch_inputs
from isologit._torch_args import HEAD, SUPPORT, HeadArgs, SupportArgs


class SampleOutput(NamedTuple):
    """[...] of the rows, ids int64 and the others f32."""

    ids: Tensor
    logprobs: Tensor  # over the support, as linear_logprobs gives them
    cut_logprobs: Tensor  # over what the cuts left
    log_kept_cut: Tensor  # ln of the share of the support's mass that the cuts left


class _SampleArgs(NamedTuple):
    """Of each of the lower ones [1] or [N]; seeds and sequence_ids are the bits of unsigned numbers."""

    head: HeadArgs
    support: SupportArgs
    seeds: Tensor
    sequence_ids: Tensor
    positions: Tensor
    min_p: Tensor
    top_k: Tensor
    top_p: Tensor

    @classmethod
    def of(cls, flat: tuple[Any, ...]) -> "_SampleArgs":
        parts = iter(flat)
        head, support = (kind(*(next(parts) for _ in kind._fields)) for kind in (HeadArgs, SupportArgs))
        return cls(head, support, *parts)


def _outputs(hidden: Tensor) -> tuple[Tensor, ...]:
    rows = hidden.shape[0]
    return hidden.new_empty(rows, dtype=torch.int64), *(hidden.new_empty(rows, dtype=torch.float32) for _ in range(3))


@torch.library.custom_op(
    "isologit::sample",
    mutates_args=(),
    schema=f"({HEAD}, {SUPPORT}, Tensor seeds, Tensor sequence_ids, Tensor positions, Tensor min_p, Tensor top_k, "
    "Tensor top_p) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _sample(*flat: Any) -> tuple[Tensor, ...]:
    args = _SampleArgs.of(flat)
    head, rows = args.head.native(), args.head.hidden.shape[0]
    request = _native.SampleRequest()
    args.head.set_rows(request)
    keep_alive = args.support.set_lists(request, rows)
    outside = args.positions[(args.positions < 0) | (args.positions >= 2**32)]
    if outside.numel() > 0:
        raise ValueError(f"position: {outside[0].item()}; expected 0 to 2^32 - 1")
    positions = args.positions.numpy().astype("uint32")
    request.positions, request.position_count = positions.ctypes.data, positions.size
    for name in ("seeds", "sequence_ids", "min_p", "top_k", "top_p"):
        values = getattr(args, name)
        setattr(request, name, values.data_ptr())
        setattr(request, f"{name.removesuffix('s')}_count", values.numel())
    results = _outputs(args.head.hidden)
    for name, result in zip(SampleOutput._fields, results, strict=True):
        setattr(request, name, result.data_ptr())
    if rows > 0:
        _native.sample(head, request, **args.head.how())
    del keep_alive
    return results


@_sample.register_fake
def _(*flat: Any) -> tuple[Tensor, ...]:
    return _outputs(flat[0])


def _per_row(value: float | Tensor, hidden: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    lead = hidden.shape[:-1]
    if not isinstance(value, Tensor):
        if dtype == torch.int64:
            if not -(2**63) <= value < 2**64:
                raise ValueError(f"{name}: {value}; expected a number of 64 bits")
            value = value - 2**64 if value >= 2**63 else value  # the same bits
        return torch.full((1,), value, dtype=dtype, device=hidden.device)
    if value.dim() > 0 and value.shape != lead:
        raise ValueError(f"{name}: shape is {list(value.shape)}; expected a number, or {list(lead)}: one for each row")
    if dtype == torch.int64 and value.dtype not in (torch.int64, torch.int32, torch.uint64):
        raise ValueError(f"{name}: dtype is {value.dtype}; expected torch.int64")
    value = value.detach().view(torch.int64) if value.dtype == torch.uint64 else value.detach().to(dtype)
    return value.reshape(-1).contiguous()


def sample(
    hidden: Tensor,
    weight: Tensor,
    *,
    seed: int | Tensor,
    sequence_id: int | Tensor,
    position: int | Tensor,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    min_p: float | Tensor = 0.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    vocab_size: int | None = None,
    mask: Tensor | None = None,
    kept: Sequence[Sequence[int]] | None = None,
    banned: Sequence[Sequence[int]] | None = None,
    arithmetic: str = "exact",
    threads: int = 0,
    kernel: str = "",
) -> SampleOutput:
    """One token for each row of hidden [..., H] under the head weight [V, H], as CONTRACT.md 4 defines it.

    A draw follows from its row's logits and cuts and from seed, sequence_id and position, which are numbers or tensors
    [...]: give each row its own sequence_id or position, or equal rows draw equal tokens. temperature 0 takes the
    greatest logit. min_p, top_k and top_p cut in this order; 0, 0 and 1 cut nothing. The rest as in linear_logprobs.
    Nothing here has a gradient: score the ids by linear_logprobs.
    """
    _torch_args.require_cpu(hidden=hidden, weight=weight, bias=bias)
    rows = _torch_inputs.flatten(hidden, weight)
    size = weight.shape[0] if vocab_size is None else vocab_size
    if mask is not None and (kept is not None or banned is not None):
        raise ValueError("mask and lists of ids are given; expected one or the other")
    results = _sample(
        rows.detach(),
        weight.detach(),
        None if bias is None else _torch_inputs.vector(bias.detach()),
        _torch_inputs.temperatures(temperature, hidden),
        size,
        softcap,
        scale,
        divide,
        arithmetic,
        threads,
        kernel,
        _torch_inputs.mask(mask, hidden, size),
        *_torch_inputs.lists(kept, rows.shape[0], "kept"),
        *_torch_inputs.lists(banned, rows.shape[0], "banned"),
        _per_row(seed, hidden, torch.int64, "seed"),
        _per_row(sequence_id, hidden, torch.int64, "sequence_id"),
        _per_row(position, hidden, torch.int64, "position"),
        _per_row(min_p, hidden, torch.float32, "min_p"),
        _per_row(top_k, hidden, torch.int64, "top_k"),
        _per_row(top_p, hidden, torch.float32, "top_p"),
    )
    return SampleOutput(*(result.reshape(hidden.shape[:-1]) for result in results))
