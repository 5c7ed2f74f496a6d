"""The operators of the forward pass and their gradients on torch tensors, over forward.h and forward_backward.h.

Operands are those that isologit.forward has checked; the last three arguments are threads, processors and kernel.
Gradients that are not wanted are empty tensors.
"""

from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native
from isologit import _native_forward as native

GATES = ("silu", "gelu_tanh", "relu_squared", "clamped_swish")
LAYOUTS = ("halves", "pairs")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *running: Any) -> Tensor:
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    if y.numel() == 0:
        return y
    rows, weight = _adjacent(x).reshape(-1, x.shape[-1]), _adjacent(weight)
    vector = _vector(bias, "bias")
    request = native.Linear(x=_inputs.matrix(rows, "x"), weight=_inputs.matrix(weight, "weight"), bias=vector)
    request.y, request.y_row_stride = y.data_ptr(), weight.shape[0]
    _run(request, running)
    return y


def linear_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, wanted: list[bool], *running: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Linears themselves: dy W, dy^T x, and dy^T of ones."""
    dx, dweight, dbias = _like(x, wanted[0]), _like(weight, wanted[1]), _like(bias, wanted[2])
    rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, weight.shape[0])
    if wanted[0]:
        dx = linear(dy, weight.t().contiguous(), None, *running).view(x.shape)
    if wanted[1]:
        _products(dy.t().contiguous(), rows.t().contiguous(), dweight, running)
    if wanted[2]:
        _products(dy.t().contiguous(), dy.new_ones(1, dy.shape[0]), dbias.view(-1, 1), running)
    return dx, dweight, dbias


def _products(left: Tensor, right: Tensor, to: Tensor, running: tuple[Any, ...]) -> None:
    """left right^T, to a matrix of any type."""
    if to.numel() == 0 or left.shape[1] == 0:
        to.zero_()
        return
    head = _native.Head(weight=_inputs.matrix(right, "x"), vocab_size=right.shape[0])
    request = _native.ScoreRequest(hidden=_inputs.matrix(left, "dy"), logits=to.data_ptr())
    request.logits_dtype, request.logits_row_stride = _inputs.dtype_code(to, "weight"), to.shape[1]
    request.logits_count = right.shape[0]
    _native.score(head, request, arithmetic="exact", running=_native.Running(*running))


def embedding(ids: Tensor, weight: Tensor, padding_id: int) -> Tensor:
    return torch.nn.functional.embedding(ids, weight)


def embedding_backward(ids: Tensor, weight: Tensor, padding_id: int, dy: Tensor) -> Tensor:
    """Sums in f64 over the tokens of an id, in their order."""
    ids, places = ids.reshape(-1).unique(return_inverse=True)
    sums = torch.zeros(ids.shape[0], weight.shape[1], dtype=torch.float64)
    sums.index_add_(0, places, dy.reshape(-1, weight.shape[1]).double())
    sums[ids == padding_id] = 0
    dweight = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    dweight[ids] = _rounded(sums, weight.dtype)
    return dweight


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """f64 rounded once: to f32, and there to odd, so that the second rounding sees what the first dropped."""
    near = values.float()
    if dtype == torch.float32:
        return near + 0.0
    excess = near.double().abs() - values.abs()
    bits = near.view(torch.int32)
    step = torch.where((excess != 0) & near.isfinite() & (bits & 1 == 0), -excess.sign(), 0).to(torch.int32)
    return (bits + step).view(torch.float32).to(dtype) + 0.0


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, one_plus_weight: bool, *running: Any) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    if y.numel() == 0:
        return y
    (x,) = rows_of(x)
    vector = _vector(weight, "weight")
    request = native.RmsNorm(x=_tensor(x), weight=vector, epsilon=epsilon, one_plus_weight=one_plus_weight)
    request.y = _output(y, x.shape[1])
    _run(request, running)
    return y


def rms_norm_backward(
    x: Tensor,
    weight: Tensor | None,
    epsilon: float,
    one_plus_weight: bool,
    dy: Tensor,
    wanted: list[bool],
    *running: Any,
) -> tuple[Tensor, Tensor]:
    dx, dweight = _like(x, wanted[0]), _like(weight, wanted[1])
    if x.numel() == 0:
        return dx, dweight.zero_()
    x, dy = rows_of(x, dy)
    vector = _vector(weight, "weight")
    request = native.RmsNormBackward(x=_tensor(x), weight=vector, epsilon=epsilon, one_plus_weight=one_plus_weight)
    request.dy, request.dx, request.dweight = _tensor(dy), _output(dx, x.shape[1]), _pointer(dweight)
    _run(request, running)
    return dx, dweight


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, *running: Any) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    if y.numel() == 0:
        return y
    (x,) = rows_of(x)
    vectors = {"weight": _vector(weight, "weight"), "bias": _vector(bias, "bias")}
    _run(native.LayerNorm(x=_tensor(x), epsilon=epsilon, y=_output(y, x.shape[1]), **vectors), running)
    return y


def layer_norm_backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    dy: Tensor,
    wanted: list[bool],
    *running: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = _like(x, wanted[0]), _like(weight, wanted[1]), _like(bias, wanted[2])
    if x.numel() == 0:
        return dx, dweight.zero_(), dbias.zero_()
    x, dy = rows_of(x, dy)
    vector = _vector(weight, "weight")
    request = native.LayerNormBackward(x=_tensor(x), weight=vector, epsilon=epsilon, dy=_tensor(dy))
    request.dx, request.dweight, request.dbias = _output(dx, x.shape[1]), _pointer(dweight), _pointer(dbias)
    request.dbias_dtype = _inputs.dtype_code(dbias, "bias")
    _run(request, running)
    return dx, dweight, dbias


def residual(x: Tensor, a: Tensor, b: Tensor | None, multiplier: float, *running: Any) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    if y.numel() == 0:
        return y
    rows = rows_of(x, a) if b is None else rows_of(x, a, b)
    request = native.Residual(multiplier=multiplier, y=_output(y, rows[0].shape[1]))
    for name, operand in zip("xab", rows, strict=False):
        setattr(request, name, _tensor(operand))
    _run(request, running)
    return y


def combine(x: Tensor, weights: Tensor, *running: Any) -> Tensor:
    y = x.new_empty((*x.shape[:-2], x.shape[-1]))
    if y.numel() == 0:
        return y
    _run(_combine_request(heads_of(x), weights.contiguous(), _output(y, 1)), running)
    return y


def combine_backward(
    x: Tensor, weights: Tensor, dy: Tensor, wanted: list[bool], *running: Any
) -> tuple[Tensor, Tensor]:
    dx, dweights = _like(x, wanted[0]), _like(weights, wanted[1])
    if dy.numel() == 0:
        return dx.zero_(), dweights.zero_()
    heads, weights, (dy,) = heads_of(x), weights.contiguous(), rows_of(dy.contiguous())
    of = _combine_request(heads, weights, native.Output())
    request = native.CombineBackward(combine=native.pointer_to(of), dy=_tensor(dy))
    request.dx, request.dweights = _output(dx, heads.shape[1]), _pointer(dweights)
    _run(request, running)
    return dx, dweights


def spread(x: Tensor, count: int, *running: Any) -> Tensor:
    return x.unsqueeze(-2).repeat_interleave(count, -2)


def _combine_request(x: Tensor, weights: Tensor, y: native.Output) -> native.Combine:
    return native.Combine(x=_tensor(x), weights=weights.data_ptr(), y=y)


def gate(g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float, *running: Any) -> Tensor:
    y = torch.empty(g.shape, dtype=g.dtype)
    if y.numel() == 0:
        return y
    rows = rows_of(g) if up is None else rows_of(g, up)
    request = native.Gate(kind=GATES.index(kind), alpha=alpha, limit=limit, y=_output(y, rows[0].shape[1]))
    for name, operand in zip(("gate", "up"), rows, strict=False):
        setattr(request, name, _tensor(operand))
    _run(request, running)
    return y


def gate_backward(
    g: Tensor, up: Tensor | None, kind: str, alpha: float, limit: float, dy: Tensor, wanted: list[bool], *running: Any
) -> tuple[Tensor, Tensor]:
    dgate, dup = _like(g, wanted[0]), _like(up, wanted[1])
    if g.numel() == 0:
        return dgate, dup
    rows = rows_of(g, dy) if up is None else rows_of(g, dy, up)
    heads = rows[0].shape[1]
    request = native.GateBackward(kind=GATES.index(kind), alpha=alpha, limit=limit)
    for name, operand in zip(("gate", "dy", "up"), rows, strict=False):
        setattr(request, name, _tensor(operand))
    request.dgate, request.dup = _output(dgate, heads), _output(dup, heads)
    _run(request, running)
    return dgate, dup


def rotary(x: Tensor, positions: Tensor, frequencies: Tensor, layout: str, factor: float, *running: Any) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    if y.numel() == 0:
        return y
    x = heads_of(x)
    positions = positions.to(torch.int64).reshape(-1).contiguous()
    frequencies = frequencies.contiguous()
    request = native.Rotary(x=_tensor(x), layout=LAYOUTS.index(layout), factor=factor, y=_output(y, x.shape[1]))
    request.positions, request.frequencies = positions.data_ptr(), frequencies.data_ptr()
    request.frequency_count = frequencies.shape[0]
    _run(request, running)
    return y


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    query_starts: Tensor,
    key_counts: Tensor,
    first_keys: Tensor | None,
    block_table: Tensor | None,
    sinks: Tensor | None,
    scale: float,
    softcap: float,
    causal: bool,
    window: int,
    *running: Any,
) -> Tensor:
    q, keys, values = _adjacent(q), _adjacent(keys), _adjacent(values)
    y = q.new_empty((*q.shape[:2], values.shape[-1]))
    if y.numel() == 0:
        return y
    lists, numbers = (query_starts, key_counts, first_keys, sinks), (scale, softcap, causal, window)
    request, keep_alive = _attention_request(q, keys, values, lists, numbers)
    if block_table is not None:
        table = block_table.to(torch.int32).contiguous()
        request.keys, request.values = _pages(keys), _pages(values)
        request.key_block_stride, request.value_block_stride = keys.stride(0), values.stride(0)
        request.block_table, request.blocks_per_sequence = table.data_ptr(), table.shape[1]
        request.block_size = keys.shape[1]
    request.y = _output(y, q.shape[1])
    _run(request, running)
    del keep_alive
    return y


def attention_backward(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    query_starts: Tensor,
    key_counts: Tensor,
    first_keys: Tensor | None,
    sinks: Tensor | None,
    scale: float,
    softcap: float,
    causal: bool,
    window: int,
    dy: Tensor,
    wanted: list[bool],
    *running: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, keys, values, dy = (_adjacent(x) for x in (q, keys, values, dy))
    found = [_like(x, wants) for x, wants in zip((q, keys, values, sinks), wanted, strict=True)]
    if dy.numel() == 0:
        return tuple(x.zero_() for x in found)
    lists, numbers = (query_starts, key_counts, first_keys, sinks), (scale, softcap, causal, window)
    of, keep_alive = _attention_request(q, keys, values, lists, numbers)
    request = native.AttentionBackward(attention=native.pointer_to(of), dy=_tensor(dy))
    request.dq, request.dkeys = _output(found[0], q.shape[1]), _output(found[1], keys.shape[1])
    request.dvalues, request.dsinks = _output(found[2], values.shape[1]), _pointer(found[3])
    _run(request, running)
    del keep_alive
    return tuple(found)


def _attention_request(
    q: Tensor, keys: Tensor, values: Tensor, lists: tuple[Tensor | None, ...], numbers: tuple[float, float, bool, int]
) -> tuple[native.Attention, list[Tensor | None]]:
    """Of keys and values without pages; and what must outlive the call."""
    query_starts, key_counts, first_keys, sinks = lists
    starts, counts = (x.to(torch.int64).contiguous() for x in (query_starts, key_counts))
    first = counts.cumsum(0) - counts if first_keys is None else first_keys.to(torch.int64).contiguous()
    request = native.Attention(q=_tensor(q), sequences=counts.shape[0])
    request.query_starts, request.key_counts = starts.data_ptr(), counts.data_ptr()
    request.first_keys = first.data_ptr()
    request.scale, request.softcap, causal, request.window = numbers
    request.not_causal = not causal
    if keys.ndim == 3:
        request.keys, request.values = _tensor(keys), _tensor(values)
    if sinks is not None:
        sinks = sinks.contiguous()
        request.sinks = sinks.data_ptr()
    return request, [starts, counts, first, sinks]


def _run(request: Any, running: tuple[Any, ...]) -> None:
    native.run(request, _native.Running(*running))


def _like(x: Tensor | None, wanted: bool) -> Tensor:
    return torch.empty(x.shape if wanted else 0, dtype=torch.float32 if x is None else x.dtype)


def _adjacent(x: Tensor) -> Tensor:
    return x if _inputs.rows_are_adjacent(x) else x.contiguous()


def heads_of(x: Tensor) -> Tensor:
    """[..., heads, dim] as [tokens, heads, dim], without a copy where the layout allows it."""
    return _adjacent(x).reshape(-1, *x.shape[-2:])


def rows_of(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one shape as [tokens, heads, dim]: of one head, where the rows of each lie at equal distances."""
    adjacent = [_adjacent(x) for x in tensors]
    try:
        return [x.view(-1, 1, x.shape[-1]) for x in adjacent]
    except RuntimeError:
        return [heads_of(x) for x in adjacent]


def _tensor(x: Tensor) -> native.Tensor:
    return native.Tensor(x.data_ptr(), *x.shape, x.stride(0), x.stride(1), _inputs.dtype_code(x, "x"))


def _pages(x: Tensor) -> native.Tensor:
    """[pages, block_size, heads, dim]: all slots, with the strides within a page."""
    pages, size, heads, dim = x.shape
    code = _inputs.dtype_code(x, "keys")
    return native.Tensor(x.data_ptr(), pages * size, heads, dim, x.stride(1), x.stride(2), code)


def _output(y: Tensor, heads: int) -> native.Output:
    """Of a contiguous result, or of an empty tensor: none."""
    dim = y.shape[-1]
    return native.Output(_pointer(y), heads * dim, dim)


def _pointer(x: Tensor) -> int | None:
    return x.data_ptr() if x.numel() > 0 else None


def _vector(vector: Tensor | None, name: str) -> _native.Vector:
    if vector is None:
        return _native.Vector()
    return _native.Vector(vector.data_ptr(), vector.shape[0], _inputs.dtype_code(vector, name))
