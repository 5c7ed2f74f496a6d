"""The operators of a forward pass besides the head, each result the real function of its operands rounded once.

Definitions: CONTRACT.md 10. Operands are torch tensors on the CPU in bf16, f16 or f32, of any layout; results are new
tensors of the operand's dtype. Weights may have another of the three dtypes. No batch, chunk, page, thread or processor
shows in a result. Gradients are not defined yet: an operand that needs one is refused unless torch.no_grad() is on.

Of every function: threads, 0 for as many as there are processors to run on; processors, their numbers, None for those
of the calling thread; kernel, one of isologit.kernels(), empty for the best here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native
from isologit import _native_forward as native

__all__ = [
    "attention",
    "gate",
    "layer_norm",
    "linear",
    "residual",
    "rms_norm",
    "rotary",
    "rotary_frequencies",
]

_DTYPES = {torch.bfloat16: _native.BF16, torch.float16: _native.F16, torch.float32: _native.F32}
_GATES = ("silu", "gelu_tanh", "relu_squared", "clamped_swish")
_LAYOUTS = ("halves", "pairs")
_RUNNING = _native.Running(0, [], "")


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, threads: int = 0, processors: Any = None, kernel: str = ""
) -> Tensor:
    """x W^T + b, [..., features], of x [..., cols], weight [features, cols] and bias [features]."""
    _check(x=x, weight=weight, bias=bias)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x, weight: shapes are {list(x.shape)} and {list(weight.shape)}; expected [..., cols] and [features, cols]"
        )
    rows = _adjacent(x).reshape(-1, x.shape[-1])
    weight = _adjacent(weight)
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    if y.numel() == 0:
        return y
    request = native.Linear(
        x=_matrix(rows), weight=_matrix(weight), bias=_vector(bias, "bias", weight.shape[0]), y=y.data_ptr()
    )
    request.y_row_stride = weight.shape[0]
    native.run(request, _running(threads, processors, kernel))
    return y


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    epsilon: float,
    *,
    one_plus_weight: bool = False,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    """x w / sqrt(mean(x^2) + epsilon) over the last dimension; with one_plus_weight, 1 + w takes the place of w."""
    _check(x=x, weight=weight)
    y = _result(x)
    if y.numel() == 0:
        return y
    (x,) = _rows(x)
    vector = _vector(weight, "weight", x.shape[-1])
    request = native.RmsNorm(x=_tensor(x), weight=vector, epsilon=epsilon, one_plus_weight=one_plus_weight)
    request.y = _output(y, x.shape[1])
    native.run(request, _running(threads, processors, kernel))
    return y


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    *,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    """(x - mean) w / sqrt(variance + epsilon) + b over the last dimension."""
    _check(x=x, weight=weight, bias=bias)
    y = _result(x)
    if y.numel() == 0:
        return y
    (x,) = _rows(x)
    vectors = {"weight": _vector(weight, "weight", x.shape[-1]), "bias": _vector(bias, "bias", x.shape[-1])}
    request = native.LayerNorm(x=_tensor(x), epsilon=epsilon, y=_output(y, x.shape[1]), **vectors)
    native.run(request, _running(threads, processors, kernel))
    return y


def residual(
    x: Tensor,
    a: Tensor,
    b: Tensor | None = None,
    *,
    multiplier: float = 1.0,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    """x + multiplier a + b, of tensors of one shape."""
    _check(x=x, a=a, b=b)
    y = _result(x)
    for name, other in (("a", a), ("b", b)):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise ValueError(f"{name}: {other.dtype} {list(other.shape)}; expected x's {x.dtype} {list(x.shape)}")
    if y.numel() == 0:
        return y
    rows = _rows(x, a) if b is None else _rows(x, a, b)
    request = native.Residual(multiplier=multiplier, y=_output(y, rows[0].shape[1]))
    for name, operand in zip("xab", rows, strict=False):
        setattr(request, name, _tensor(operand))
    native.run(request, _running(threads, processors, kernel))
    return y


def gate(
    g: Tensor,
    up: Tensor | None = None,
    *,
    kind: str = "silu",
    alpha: float = 1.702,
    limit: float = 7.0,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    """gate(g) up, or gate(g): kind is "silu", "gelu_tanh", "relu_squared" or "clamped_swish" (which alpha and limit
    belong to)."""
    _check(g=g, up=up)
    if kind not in _GATES:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, _GATES))}")
    if up is not None and (up.shape != g.shape or up.dtype != g.dtype):
        raise ValueError(f"up: {up.dtype} {list(up.shape)}; expected g's {g.dtype} {list(g.shape)}")
    y = _result(g)
    if y.numel() == 0:
        return y
    rows = _rows(g) if up is None else _rows(g, up)
    request = native.Gate(kind=_GATES.index(kind), alpha=alpha, limit=limit, y=_output(y, rows[0].shape[1]))
    for name, operand in zip(("gate", "up"), rows, strict=False):
        setattr(request, name, _tensor(operand))
    native.run(request, _running(threads, processors, kernel))
    return y


def rotary_frequencies(theta: float, dim: int, scaling: Mapping[str, Any] | None = None) -> Tensor:
    """theta^(-2j / dim) for j in [0, dim / 2), f32, each rounded once.

    scaling: as Hugging Face configs have it, rope_type "default", "linear" (factor) or "llama3" (factor,
    low_freq_factor, high_freq_factor, original_max_position_embeddings).
    """
    scaling = dict(scaling or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    request = native.RotaryFrequencies(theta=theta, dim=dim)
    if kind == "linear":
        request.factor = scaling["factor"]
    elif kind == "llama3":
        request.scaling = 1
        request.factor = scaling["factor"]
        request.low_freq_factor = scaling["low_freq_factor"]
        request.high_freq_factor = scaling["high_freq_factor"]
        request.original_max_position = scaling["original_max_position_embeddings"]
    elif kind != "default":
        raise NotImplementedError(f"rope_type is {kind!r}; expected 'default', 'linear' or 'llama3'")
    frequencies = torch.empty(max(dim // 2, 1), dtype=torch.float32)
    request.frequencies = frequencies.data_ptr()
    native.rotary_frequencies(request)
    return frequencies


def rotary(
    x: Tensor,
    positions: Tensor,
    frequencies: Tensor,
    *,
    layout: str = "halves",
    factor: float = 1.0,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    """x [..., heads, dim] turned by positions [...] times frequencies [pairs], over the reals.

    layout: element j turns with j + pairs ("halves"), or 2j with 2j + 1 ("pairs"); what lies past the last pair is
    copied. factor: the attention factor.
    """
    _check(x=x)
    if layout not in _LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected 'halves' or 'pairs'")
    if x.ndim < 2 or positions.shape != x.shape[:-2] or positions.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"positions: {positions.dtype} {list(positions.shape)} for x {list(x.shape)}; expected integers, one for "
            f"each [heads, dim] of x"
        )
    if frequencies.dtype != torch.float32 or frequencies.ndim != 1:
        raise ValueError(f"frequencies: {frequencies.dtype} {list(frequencies.shape)}; expected torch.float32 [pairs]")
    y = torch.empty(x.shape, dtype=x.dtype)
    if y.numel() == 0:
        return y
    x = _heads(x)
    positions = positions.to(torch.int64).reshape(-1).contiguous()
    frequencies = frequencies.contiguous()
    request = native.Rotary(
        x=_tensor(x),
        positions=positions.data_ptr(),
        frequencies=frequencies.data_ptr(),
        frequency_count=frequencies.shape[0],
        layout=_LAYOUTS.index(layout),
        factor=factor,
        y=_output(y, x.shape[1]),
    )
    native.run(request, _running(threads, processors, kernel))
    return y


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    query_starts: Tensor | None = None,
    key_counts: Tensor | None = None,
    first_keys: Tensor | None = None,
    block_table: Tensor | None = None,
    scale: float,
    softcap: float = 0.0,
    causal: bool = True,
    window: int = 0,
    sinks: Tensor | None = None,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    """The mean of the values that each query sees, weighed by e^(scale q k), [tokens, heads, value_dim].

    q [tokens, heads, dim]: the queries of all sequences one after another; sequence s has those from query_starts[s] to
    query_starts[s + 1] - 1, and key_counts[s] keys, the last of which is its last query's own. Left out: one sequence.
    keys [tokens, kv_heads, dim], values [tokens, kv_heads, value_dim]: sequence s begins at first_keys[s], which may be
    left out where the sequences lie one after another. Or, with block_table [sequences, blocks], pages: keys [pages,
    block_size, kv_heads, dim], and values likewise.
    causal: a query sees no later key; window: and no more than so many, its own among them; 0: all.
    softcap: scores become softcap tanh(s / softcap). sinks [heads]: e^sink joins the sum of weights.
    """
    _check(q=q, keys=keys, values=values)
    if q.ndim != 3 or keys.ndim != (3 if block_table is None else 4) or values.ndim != keys.ndim:
        raise ValueError(
            f"q, keys, values: shapes are {list(q.shape)}, {list(keys.shape)} and {list(values.shape)}; expected "
            "[tokens, heads, dim], and keys and values of three dimensions, or four with a block_table"
        )
    if query_starts is None or key_counts is None:
        if query_starts is not None or key_counts is not None or block_table is not None:
            raise ValueError("query_starts, key_counts: expected both or none, and both with a block_table")
        query_starts, key_counts = torch.tensor([0, q.shape[0]]), torch.tensor([keys.shape[0]])
    starts, counts = _integers("query_starts", query_starts), _integers("key_counts", key_counts)
    q, keys, values = _adjacent(q), _adjacent(keys), _adjacent(values)
    y = q.new_empty((*q.shape[:2], values.shape[-1]))
    if y.numel() == 0:
        return y
    request = native.Attention(
        q=_tensor(q),
        sequences=counts.shape[0],
        query_starts=starts.data_ptr(),
        key_counts=counts.data_ptr(),
        scale=scale,
        softcap=softcap,
        not_causal=not causal,
        window=window,
        y=_output(y, q.shape[1]),
    )
    if starts.shape[0] != counts.shape[0] + 1:
        raise ValueError(f"query_starts: {starts.shape[0]} numbers for {counts.shape[0]} sequences; expected one more")
    if block_table is None:
        request.keys, request.values = _tensor(keys), _tensor(values)
        first = _integers("first_keys", first_keys) if first_keys is not None else counts.cumsum(0) - counts
        if first.shape != counts.shape:
            raise ValueError(f"first_keys: {list(first.shape)}; expected {list(counts.shape)}")
        request.first_keys = first.data_ptr()
    else:
        table = block_table.to(torch.int32).contiguous()
        if table.ndim != 2 or table.shape[0] != counts.shape[0] or keys.shape[:3] != values.shape[:3]:
            raise ValueError(
                f"block_table, keys, values: shapes are {list(table.shape)}, {list(keys.shape)} and "
                f"{list(values.shape)}; expected [sequences, blocks] and [pages, block_size, kv_heads, ...]"
            )
        request.keys, request.values = _pages(keys), _pages(values)
        request.key_block_stride, request.value_block_stride = keys.stride(0), values.stride(0)
        request.block_table, request.blocks_per_sequence = table.data_ptr(), table.shape[1]
        request.block_size = keys.shape[1]
    if sinks is not None:
        sinks = sinks.to(torch.float32).contiguous()
        if sinks.shape != (q.shape[1],):
            raise ValueError(f"sinks: {list(sinks.shape)}; expected one for each of {q.shape[1]} heads")
        request.sinks = sinks.data_ptr()
    native.run(request, _running(threads, processors, kernel))
    return y


def _running(threads: int, processors: Any, kernel: str) -> _native.Running:
    if not threads and processors is None and not kernel:
        return _RUNNING
    return _native.Running(threads, _inputs.processor_numbers(processors), kernel)


def _check(**operands: Tensor | None) -> None:
    for name, operand in operands.items():
        if operand is None:
            continue
        if operand.dtype not in _DTYPES:
            raise ValueError(
                f"{name}: dtype is {operand.dtype}; expected torch.bfloat16, torch.float16 or torch.float32"
            )
        if operand.device.type != "cpu":
            raise NotImplementedError(f"{name} is on {operand.device}; the forward pass computes on the CPU only")
        if operand.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                f"{name} needs a gradient, which isologit.forward does not have yet: call it within torch.no_grad()"
            )


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _heads(x: Tensor) -> Tensor:
    """[..., heads, dim] as [tokens, heads, dim], without a copy where the layout allows it."""
    return _adjacent(x).reshape(-1, *x.shape[-2:])


def _rows(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one shape as [tokens, heads, dim]: of one head, where the rows of each lie at equal distances."""
    adjacent = [_adjacent(x) for x in tensors]
    try:
        return [x.view(-1, 1, x.shape[-1]) for x in adjacent]
    except RuntimeError:
        return [_heads(x) for x in adjacent]


def _result(x: Tensor) -> Tensor:
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"shape is {list(x.shape)}; expected [..., dim] with at least one element")
    return torch.empty(x.shape, dtype=x.dtype)


def _tensor(x: Tensor) -> native.Tensor:
    return native.Tensor(x.data_ptr(), *x.shape, x.stride(0), x.stride(1), _DTYPES[x.dtype])


def _pages(x: Tensor) -> native.Tensor:
    """[pages, block_size, heads, dim]: all slots, with the strides within a page."""
    pages, size, heads, dim = x.shape
    return native.Tensor(x.data_ptr(), pages * size, heads, dim, x.stride(1), x.stride(2), _DTYPES[x.dtype])


def _output(y: Tensor, heads: int) -> native.Output:
    dim = y.shape[-1]
    return native.Output(y.data_ptr(), heads * dim, dim)


def _matrix(x: Tensor) -> _native.Matrix:
    return _native.Matrix(x.data_ptr(), *x.shape, x.stride(0), _DTYPES[x.dtype])


def _vector(vector: Tensor | None, name: str, size: int) -> _native.Vector:
    if vector is None:
        return _native.Vector()
    if vector.shape != (size,) or vector.stride(0) != 1:
        raise ValueError(f"{name}: {list(vector.shape)}; expected {size} adjacent elements")
    return _native.Vector(vector.data_ptr(), size, _DTYPES[vector.dtype])


def _integers(name: str, numbers: Tensor) -> Tensor:
    if numbers.dtype not in (torch.int64, torch.int32) or numbers.ndim != 1:
        raise ValueError(f"{name}: {numbers.dtype} {list(numbers.shape)}; expected a vector of integers")
    return numbers.to(torch.int64).contiguous()
