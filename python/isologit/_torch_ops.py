"""The operators of torch: isologit::score and isologit::logits, over the C interface."""

import torch
from torch import Tensor

from isologit import _arrays, _native

_DTYPES = {torch.bfloat16: _native.BF16, torch.float16: _native.F16, torch.float32: _native.F32}


def require_cpu(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device.type not in ("cpu", "meta"):
            raise NotImplementedError(
                f"{name} is on {tensor.device}; this build of isologit computes on the CPU only: pass {name}.cpu()"
            )


def _dtype_code(tensor: Tensor, name: str) -> int:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name}: dtype is {tensor.dtype}; expected torch.bfloat16, torch.float16 or torch.float32")
    return _DTYPES[tensor.dtype]


def rows_are_adjacent(tensor: Tensor) -> bool:
    return tensor.shape[-1] <= 1 or tensor.stride(-1) == 1


def _matrix(tensor: Tensor, name: str) -> _native.Matrix:
    return _native.Matrix(
        tensor.data_ptr(), tensor.shape[0], tensor.shape[1], tensor.stride(0), _dtype_code(tensor, name)
    )


def _head(
    weight: Tensor,
    bias: Tensor | None,
    vocab_size: int,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
) -> _native.Head:
    if not rows_are_adjacent(weight):
        raise ValueError(
            f"weight: shape is {list(weight.shape)}, strides are {list(weight.stride())}; expected a last "
            "stride of 1. The weight is read in place and not copied: store it as [V, H] row by row"
        )
    vector = None
    if bias is not None:
        vector = _native.Vector(bias.data_ptr(), bias.shape[0], _dtype_code(bias, "bias"))
    return _native.make_head(
        _matrix(weight, "weight"), vector, vocab_size=vocab_size, softcap=softcap, scale=scale, divide=divide
    )


def _set_temperature(request: _native.ScoreRequest, temperatures: Tensor) -> None:
    request.temperatures, request.temperature_count = temperatures.data_ptr(), temperatures.shape[0]


def _check_arithmetic(arithmetic: str) -> None:
    if arithmetic == "fast":
        raise NotImplementedError("arithmetic='fast' has no kernel yet; use arithmetic='exact'")
    if arithmetic != "exact":
        raise ValueError(f"arithmetic is {arithmetic!r}; expected 'exact' or 'fast'")


def _outputs(hidden: Tensor, token_ids: Tensor, entropy: bool, lse: bool, top_k: int) -> tuple[Tensor, ...]:
    rows = hidden.shape[0]
    top_k_shape = (rows, top_k) if top_k > 0 else (0,)
    return (
        hidden.new_zeros(token_ids.shape, dtype=torch.float32),
        hidden.new_zeros(rows if entropy else 0, dtype=torch.float32),
        hidden.new_zeros(rows if lse else 0, dtype=torch.float32),
        hidden.new_zeros(top_k_shape, dtype=torch.int64),
        hidden.new_zeros(top_k_shape, dtype=torch.float32),
    )


@torch.library.custom_op("isologit::score", mutates_args=())
def score(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    temperatures: Tensor,
    vocab_size: int,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
    ignore_index: int,
    mask: Tensor | None,
    kept_offsets: Tensor | None,
    kept_ids: Tensor | None,
    banned_offsets: Tensor | None,
    banned_ids: Tensor | None,
    entropy: bool,
    lse: bool,
    top_k: int,
    arithmetic: str,
    threads: int,
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logprobs, entropy, lse, top_k_ids, top_k_logprobs; empty where not asked for.

    hidden [N, H], token_ids [N] or [N, K], temperatures [1] or [N], mask [1, V] or [N, V].
    """
    require_cpu(hidden=hidden, weight=weight, bias=bias)
    _check_arithmetic(arithmetic)
    head = _head(weight, bias, vocab_size, softcap, scale, divide)
    rows = hidden.shape[0]
    request = _native.ScoreRequest(hidden=_matrix(hidden, "hidden"), has_ignore_index=1, ignore_index=ignore_index)
    _set_temperature(request, temperatures)
    results = _outputs(hidden, token_ids, entropy, lse, top_k)
    if token_ids.dim() == 1:
        request.token_ids, request.logprobs = token_ids.data_ptr(), results[0].data_ptr()
    else:
        request.ids_per_row = token_ids.shape[1]
        request.ids, request.ids_logprobs = token_ids.data_ptr(), results[0].data_ptr()
    if entropy:
        request.entropy = results[1].data_ptr()
    if lse:
        request.lse = results[2].data_ptr()
    if top_k:
        request.top_k = top_k
        request.top_k_ids, request.top_k_logprobs = results[3].data_ptr(), results[4].data_ptr()
    if kept_offsets is not None and kept_ids is not None:
        request.kept = _native.IdLists(kept_offsets.data_ptr(), kept_ids.data_ptr())
    if banned_offsets is not None and banned_ids is not None:
        request.banned = _native.IdLists(banned_offsets.data_ptr(), banned_ids.data_ptr())
    if mask is not None:
        which, offsets, ids = _arrays.mask_lists(mask.numpy(), rows)
        setattr(request, which, _native.IdLists(offsets.ctypes.data, ids.ctypes.data))
    if rows > 0:
        _native.score(head, request, threads=threads, kernel=kernel)
    return results


@score.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    temperatures: Tensor,
    vocab_size: int,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
    ignore_index: int,
    mask: Tensor | None,
    kept_offsets: Tensor | None,
    kept_ids: Tensor | None,
    banned_offsets: Tensor | None,
    banned_ids: Tensor | None,
    entropy: bool,
    lse: bool,
    top_k: int,
    arithmetic: str,
    threads: int,
    kernel: str,
) -> tuple[Tensor, ...]:
    return _outputs(hidden, token_ids, entropy, lse, top_k)


@torch.library.custom_op("isologit::logits", mutates_args=())
def logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperatures: Tensor,
    vocab_size: int,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
    dtype: torch.dtype,
    arithmetic: str,
    threads: int,
    kernel: str,
) -> Tensor:
    """[N, vocab_size] in dtype, of hidden [N, H]."""
    require_cpu(hidden=hidden, weight=weight, bias=bias)
    _check_arithmetic(arithmetic)
    head = _head(weight, bias, vocab_size, softcap, scale, divide)
    rows = hidden.shape[0]
    result = hidden.new_empty((rows, vocab_size), dtype=dtype)
    request = _native.ScoreRequest(
        hidden=_matrix(hidden, "hidden"),
        logits=result.data_ptr(),
        logits_dtype=_dtype_code(result, "logits"),
        logits_row_stride=vocab_size,
        logits_count=vocab_size,
    )
    _set_temperature(request, temperatures)
    if rows > 0:
        _native.score(head, request, threads=threads, kernel=kernel)
    return result


@logits.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperatures: Tensor,
    vocab_size: int,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
    dtype: torch.dtype,
    arithmetic: str,
    threads: int,
    kernel: str,
) -> Tensor:
    return hidden.new_empty((hidden.shape[0], vocab_size), dtype=dtype)


def _no_backward(ctx: object, *upstream: object) -> None:
    raise NotImplementedError(
        "isologit has no gradients yet; call it under torch.no_grad(), or on tensors without requires_grad"
    )


score.register_autograd(_no_backward)
logits.register_autograd(_no_backward)
