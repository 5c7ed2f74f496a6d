"""The operators of a forward pass besides the head, each result the real function of its operands rounded once.

Definitions: CONTRACT.md 10. Operands are torch tensors in bf16, f16 or f32, of any layout and on any device of torch;
results are new tensors of the operand's dtype. Weights may have another of the three dtypes. No batch, chunk, page,
thread or processor shows in a result. All are differentiable in their floating operands, in reverse mode, but attention
over pages.

Of every function: threads, 0 for as many as there are processors to run on; processors, their numbers, None for those
of the calling thread; kernel, one of isologit.kernels(), empty for the best here.
"""

import decimal
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from isologit import _forward_calls, _inputs, _numbers, torch_backend
from isologit import _native_forward as native
from isologit._rounding import round_to_odd
from isologit._torch import forward as operators

__all__ = [
    "attention",
    "combine",
    "embedding",
    "gate",
    "layer_norm",
    "linear",
    "residual",
    "rms_norm",
    "rotary",
    "rotary_factor",
    "rotary_frequencies",
    "router",
    "spread",
]


def embedding(ids: Tensor, weight: Tensor, *, padding_id: int | None = None) -> Tensor:
    """The rows of weight [ids, features] that ids [...] tell, [..., features]; padding_id has no gradient."""
    _check(weight=weight)
    _inputs.require_one_device(weight=weight, ids=ids)
    if weight.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"ids, weight: {ids.dtype} and {list(weight.shape)}; expected integers, and a matrix of a row for each id"
        )
    return _call("embedding", ids, weight, -1 if padding_id is None else padding_id)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, threads: int = 0, processors: Any = None, kernel: str = ""
) -> Tensor:
    """x W^T + b, [..., features], of x [..., cols], weight [features, cols] and bias [features]."""
    _check(x=x, weight=weight, bias=bias)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x, weight: shapes are {list(x.shape)} and {list(weight.shape)}; expected [..., cols] and [features, cols]"
        )
    _check_vector(bias, "bias", weight.shape[0])
    return _call("linear", x, weight, bias, *_inputs.run_options(threads, processors, kernel))


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
    _check_rows(x)
    _check_vector(weight, "weight", x.shape[-1])
    running = _inputs.run_options(threads, processors, kernel)
    return _call("rms_norm", x, weight, epsilon, one_plus_weight, *running)


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
    _check_rows(x)
    _check_vector(weight, "weight", x.shape[-1])
    _check_vector(bias, "bias", x.shape[-1])
    return _call("layer_norm", x, weight, bias, epsilon, *_inputs.run_options(threads, processors, kernel))


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
    _check_rows(x)
    for name, other in (("a", a), ("b", b)):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise ValueError(f"{name}: {other.dtype} {list(other.shape)}; expected x's {x.dtype} {list(x.shape)}")
    return _call("residual", x, a, b, multiplier, *_inputs.run_options(threads, processors, kernel))


def router(logits: Tensor, count: int, *, normalized: bool = True, **running: Any) -> tuple[Tensor, Tensor]:
    """The weights of the `count` greatest of a token's f32 logits [..., experts], and their ids, both [..., count].

    In descending order, of equal ones the lowest id first. A weight is that of the softmax over those chosen, or, not
    normalized, over all, rounded once to f32.
    """
    _check(logits=logits)
    if logits.dtype != torch.float32 or logits.ndim < 1 or not 1 <= count <= logits.shape[-1]:
        raise ValueError(
            f"logits, count: {logits.dtype} {list(logits.shape)} and {count}; expected torch.float32 [..., experts], "
            "and 1 to experts"
        )
    ordered, ids = logits.reshape(-1, logits.shape[-1]).sort(dim=-1, descending=True, stable=True)
    shape = (*logits.shape[:-1], count)
    keys = ordered[:, :count] if normalized else ordered
    tokens, seen = keys.shape
    # Attention of one query a token: the scores are the logits, and the values tell the chosen ones apart.
    values = torch.eye(seen, count, device=logits.device).expand(tokens, seen, count)
    weights = attention(
        logits.new_ones(tokens, 1, 1),
        keys.reshape(-1, 1, 1),
        values.reshape(-1, 1, count),
        query_starts=torch.arange(tokens + 1),
        key_counts=torch.full((tokens,), seen),
        scale=1.0,
        causal=False,
        **running,
    )
    return weights.reshape(shape), ids[:, :count].reshape(shape)


def spread(x: Tensor, count: int) -> Tensor:
    """x [..., dim] `count` times, [..., count, dim]: one for each expert. Gradients are their sum, rounded once."""
    _check(x=x)
    return _call("spread", x, count, 0, [], "")


def combine(x: Tensor, weights: Tensor, *, threads: int = 0, processors: Any = None, kernel: str = "") -> Tensor:
    """The sum of weights [..., experts], f32, times x [..., experts, dim] over the experts, [..., dim]."""
    _check(x=x, weights=weights)
    if x.ndim < 2 or weights.shape != x.shape[:-1] or weights.dtype != torch.float32:
        raise ValueError(
            f"x, weights: {list(x.shape)} and {weights.dtype} {list(weights.shape)}; expected [..., experts, dim] and "
            "torch.float32 [..., experts]"
        )
    return _call("combine", x, weights, *_inputs.run_options(threads, processors, kernel))


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
    if kind not in _forward_calls.GATES:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, _forward_calls.GATES))}")
    if up is not None and (up.shape != g.shape or up.dtype != g.dtype):
        raise ValueError(f"up: {up.dtype} {list(up.shape)}; expected g's {g.dtype} {list(g.shape)}")
    _check_rows(g)
    return _call("gate", g, up, kind, alpha, limit, *_inputs.run_options(threads, processors, kernel))


def rotary_frequencies(theta: float, dim: int, scaling: Mapping[str, Any] | None = None) -> Tensor:
    """theta^(-2j / dim) for j in [0, dim / 2), f32, each rounded once.

    scaling: as Hugging Face configs have it, rope_type "default", "linear" (factor) or "llama3" (factor,
    low_freq_factor, high_freq_factor, original_max_position_embeddings) or "yarn" (factor, beta_fast, beta_slow,
    original_max_position_embeddings, truncate).
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
    elif kind == "yarn":
        request.scaling = 2
        request.factor = scaling["factor"]
        request.beta_fast, request.beta_slow = scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1
        request.original_max_position = scaling["original_max_position_embeddings"]
        request.not_truncated = not scaling.get("truncate", True)
    elif kind != "default":
        raise NotImplementedError(f"rope_type is {kind!r}; expected 'default', 'linear', 'llama3' or 'yarn'")
    frequencies = torch.empty(max(dim // 2, 1), dtype=torch.float32)
    request.frequencies = frequencies.data_ptr()
    native.rotary_frequencies(request)
    return frequencies


def rotary_factor(scaling: Mapping[str, Any] | None = None) -> float:
    """The attention factor of a scaling, as rotary takes it: 1 but for "yarn", where it is attention_factor, or else
    m(mscale) / m(mscale_all_dim) with both and m(1) without, m(a) = 1 + a ln(factor) / 10, rounded once to f32."""
    scaling = dict(scaling or {})
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return _numbers.f32(scaling["attention_factor"], "attention_factor")
    with decimal.localcontext(decimal.Context(prec=60)):
        log = decimal.Decimal(_numbers.f32(scaling["factor"], "factor")).ln() / 10
        over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
        one = decimal.Decimal(1)
        if over and under:
            over, under = (decimal.Decimal(_numbers.f32(a, "mscale")) for a in (over, under))
            factor = (one + over * log) / (one + under * log)
        else:
            factor = one + log
    return _numbers.f32(round_to_odd(Fraction(factor)), "factor")


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
    if layout not in _forward_calls.LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected 'halves' or 'pairs'")
    if x.ndim < 2 or positions.shape != x.shape[:-2] or positions.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"positions: {positions.dtype} {list(positions.shape)} for x {list(x.shape)}; expected integers, one for "
            f"each [heads, dim] of x"
        )
    if frequencies.dtype != torch.float32 or frequencies.ndim != 1:
        raise ValueError(f"frequencies: {frequencies.dtype} {list(frequencies.shape)}; expected torch.float32 [pairs]")
    running = _inputs.run_options(threads, processors, kernel)
    there = (positions.to(x.device), frequencies.to(x.device))
    return _call("rotary", x, *there, layout, factor, *running)


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
    for name, numbers in (("query_starts", query_starts), ("key_counts", key_counts), ("first_keys", first_keys)):
        if numbers is not None and (numbers.dtype not in (torch.int64, torch.int32) or numbers.ndim != 1):
            raise ValueError(f"{name}: {numbers.dtype} {list(numbers.shape)}; expected a vector of integers")
    sequences = key_counts.shape[0]
    if query_starts.shape[0] != sequences + 1:
        raise ValueError(f"query_starts: {query_starts.shape[0]} numbers for {sequences} sequences; expected one more")
    if block_table is not None and (
        block_table.ndim != 2 or block_table.shape[0] != sequences or keys.shape[:3] != values.shape[:3]
    ):
        raise ValueError(
            f"block_table, keys, values: shapes are {list(block_table.shape)}, {list(keys.shape)} and "
            f"{list(values.shape)}; expected [sequences, blocks] and [pages, block_size, kv_heads, ...]"
        )
    if block_table is None and first_keys is not None and first_keys.shape != key_counts.shape:
        raise ValueError(f"first_keys: {list(first_keys.shape)}; expected {list(key_counts.shape)}")
    if sinks is not None:
        sinks = sinks.to(torch.float32)
        if sinks.shape != (q.shape[1],):
            raise ValueError(f"sinks: {list(sinks.shape)}; expected one for each of {q.shape[1]} heads")
    lists = (query_starts, key_counts, first_keys, block_table)
    sequence = (None if x is None else x.to(q.device) for x in lists)
    numbers = (scale, softcap, causal, window)
    running = _inputs.run_options(threads, processors, kernel)
    return _call("attention", q, keys, values, *sequence, sinks, *numbers, *running)


def _call(name: str, *arguments: Any) -> Tensor:
    """isologit::name, or without torch's dispatcher where nothing would come of it."""
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    by_library = getattr(_forward_calls, name)
    # Subclasses that dispatch, fake tensors among them, may have no memory of their own.
    if _numbers.traced() or any(type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__ for x in tensors):
        return getattr(operators, name)(*arguments)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return getattr(operators, name)(*arguments)
    return torch_backend.run(name, arguments, by_library) if torch_backend.takes(arguments) else by_library(*arguments)


def _check(**operands: Tensor | None) -> None:
    given = {name: x for name, x in operands.items() if x is not None}
    for name, operand in given.items():
        _inputs.dtype_code(operand, name)
    _inputs.require_one_device(**given)
    _inputs.refuse_tangents(**given)


def _check_rows(x: Tensor) -> None:
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"shape is {list(x.shape)}; expected [..., dim] with at least one element")


def _check_vector(vector: Tensor | None, name: str, size: int) -> None:
    if vector is not None and (vector.shape != (size,) or vector.stride(0) != 1):
        raise ValueError(f"{name}: {list(vector.shape)}; expected {size} adjacent elements")
