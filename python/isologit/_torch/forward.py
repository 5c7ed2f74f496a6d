"""isologit::linear and the other operators of the forward pass, and how autograd goes through them.

Nothing is saved for backward but the operands. Gradients of rotary and residual are these operators again; the others
are operators of their own, isologit::linear_backward and so on.
"""

from typing import Any

import torch
from torch import Tensor

from isologit import _forward_calls as calls
from isologit._torch.schema import operator

_RUNNING = "int threads, int[] processors, str kernel"
_ATTENTION = "Tensor q, Tensor keys, Tensor values, Tensor query_starts, Tensor key_counts, Tensor? first_keys"
_SCORES = "float scale, float softcap, bool causal, SymInt window"
_BACKWARD = f"Tensor dy, bool[] wanted, {_RUNNING}"


def _fake_gradients(*places: int) -> Any:
    """Of an operator whose arguments at these places have gradients; `wanted` is the fourth before its end."""

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        found = []
        for place, wanted in zip(places, arguments[-4], strict=True):
            x = arguments[place]
            dtype = torch.float32 if x is None else x.dtype
            found.append(arguments[0].new_empty(tuple(x.shape) if wanted else 0, dtype=dtype))
        return tuple(found)

    return fake


def _same(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(tuple(x.shape))


def _fake_attention(q: Tensor, keys: Tensor, values: Tensor, *_: Any) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], values.shape[-1]))


def _save(tensors: list[int], numbers: slice) -> Any:
    """The arguments at these places are saved for backward, the others from there on kept as they are."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(inputs[place] for place in tensors))
        ctx.numbers, ctx.running, ctx.inputs = inputs[numbers], inputs[-3:], len(inputs)

    return setup


def _through(op: Any, places: tuple[int, ...]) -> Any:
    """Backward by an operator of its own; the arguments at these places have gradients."""

    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [ctx.needs_input_grad[place] for place in places]
        found = op(*ctx.saved_tensors, *ctx.numbers, dy, wanted, *ctx.running)
        results: list[Tensor | None] = [None] * ctx.inputs
        for place, gradient, wants in zip(places, found, wanted, strict=True):
            results[place] = gradient if wants else None
        return tuple(results)

    return backward


def _gradients(name: str, schema: str, run: Any, *places: int) -> Any:
    results = ", ".join(["Tensor"] * len(places))
    return operator(name, f"({schema}, {_BACKWARD}) -> ({results})", run, _fake_gradients(*places))


_LINEAR = "Tensor x, Tensor weight, Tensor? bias"
linear = operator(
    "linear",
    f"({_LINEAR}, {_RUNNING}) -> Tensor",
    calls.linear,
    lambda x, weight, *_: x.new_empty((*x.shape[:-1], weight.shape[0])),
)
linear_backward = _gradients("linear_backward", _LINEAR, calls.linear_backward, 0, 1, 2)
linear.register_autograd(_through(linear_backward, (0, 1, 2)), setup_context=_save([0, 1, 2], slice(3, -3)))

_EMBEDDING = "Tensor ids, Tensor weight, SymInt padding_id"
embedding = operator(
    "embedding",
    f"({_EMBEDDING}) -> Tensor",
    calls.embedding,
    lambda ids, weight, _: weight.new_empty((*ids.shape, weight.shape[1])),
)
embedding_backward = operator(
    "embedding_backward",
    f"({_EMBEDDING}, Tensor dy) -> Tensor",
    calls.embedding_backward,
    lambda ids, weight, *_: weight.new_empty(tuple(weight.shape)),
)


def _save_embedding(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.padding_id = inputs[2]


def _embedding_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return None, embedding_backward(*ctx.saved_tensors, ctx.padding_id, dy), None


embedding.register_autograd(_embedding_backward, setup_context=_save_embedding)

_RMS_NORM = "Tensor x, Tensor? weight, float epsilon, bool one_plus_weight"
rms_norm = operator("rms_norm", f"({_RMS_NORM}, {_RUNNING}) -> Tensor", calls.rms_norm, _same)
rms_norm_backward = _gradients("rms_norm_backward", _RMS_NORM, calls.rms_norm_backward, 0, 1)
rms_norm.register_autograd(_through(rms_norm_backward, (0, 1)), setup_context=_save([0, 1], slice(2, -3)))

_LAYER_NORM = "Tensor x, Tensor? weight, Tensor? bias, float epsilon"
layer_norm = operator("layer_norm", f"({_LAYER_NORM}, {_RUNNING}) -> Tensor", calls.layer_norm, _same)
layer_norm_backward = _gradients("layer_norm_backward", _LAYER_NORM, calls.layer_norm_backward, 0, 1, 2)
layer_norm.register_autograd(_through(layer_norm_backward, (0, 1, 2)), setup_context=_save([0, 1, 2], slice(3, -3)))

_COMBINE = "Tensor x, Tensor weights"
combine = operator(
    "combine",
    f"({_COMBINE}, {_RUNNING}) -> Tensor",
    calls.combine,
    lambda x, *_: x.new_empty((*x.shape[:-2], x.shape[-1])),
)
combine_backward = _gradients("combine_backward", _COMBINE, calls.combine_backward, 0, 1)
combine.register_autograd(_through(combine_backward, (0, 1)), setup_context=_save([0, 1], slice(2, -3)))

spread = operator(
    "spread",
    f"(Tensor x, SymInt count, {_RUNNING}) -> Tensor",
    calls.spread,
    lambda x, count, *_: x.new_empty((*x.shape[:-1], count, x.shape[-1])),
)


def _spread_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The sum over the copies, rounded once."""
    ones = dy.new_ones(tuple(dy.shape[:-1]), dtype=torch.float32)
    return combine(dy, ones, *ctx.running), *(None,) * 4


spread.register_autograd(_spread_backward, setup_context=_save([], slice(1, -3)))

_GATE = "Tensor g, Tensor? up, str kind, float alpha, float limit"
gate = operator("gate", f"({_GATE}, {_RUNNING}) -> Tensor", calls.gate, _same)
gate_backward = _gradients("gate_backward", _GATE, calls.gate_backward, 0, 1)
gate.register_autograd(_through(gate_backward, (0, 1)), setup_context=_save([0, 1], slice(2, -3)))

residual = operator(
    "residual", f"(Tensor x, Tensor a, Tensor? b, float multiplier, {_RUNNING}) -> Tensor", calls.residual, _same
)


def _residual_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """dy, multiplier dy rounded once, dy."""
    multiplier = ctx.numbers[0]
    da = dy if multiplier == 1 else residual(torch.zeros_like(dy), dy, None, multiplier, *ctx.running)
    found = (dy, da, dy)
    wanted = (gradient if needs else None for gradient, needs in zip(found, ctx.needs_input_grad, strict=False))
    return *wanted, *(None,) * 4


residual.register_autograd(_residual_backward, setup_context=_save([], slice(3, -3)))

rotary = operator(
    "rotary",
    f"(Tensor x, Tensor positions, Tensor frequencies, str layout, float factor, {_RUNNING}) -> Tensor",
    calls.rotary,
    _same,
)


def _swapped(x: Tensor, pairs: int, layout: str) -> Tensor:
    """The two elements of each pair in each other's place."""
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    shape = (2, pairs) if layout == "halves" else (pairs, 2)
    return torch.cat([turned.unflatten(-1, shape).flip(-2 if layout == "halves" else -1).flatten(-2), rest], -1)


def _rotary_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The turn back: that of (b, a) by the same angle is (b cos a - a sin a, a cos a + b sin a)."""
    positions, frequencies = ctx.saved_tensors
    layout = ctx.numbers[0]
    pairs = frequencies.shape[0]
    turned = rotary(_swapped(dy, pairs, layout), positions, frequencies, *ctx.numbers, *ctx.running)
    return _swapped(turned, pairs, layout), *(None,) * 7


rotary.register_autograd(_rotary_backward, setup_context=_save([1, 2], slice(3, -3)))

attention = operator(
    "attention",
    f"({_ATTENTION}, Tensor? block_table, Tensor? sinks, {_SCORES}, {_RUNNING}) -> Tensor",
    calls.attention,
    _fake_attention,
)
attention_backward = _gradients(
    "attention_backward", f"{_ATTENTION}, Tensor? sinks, {_SCORES}", calls.attention_backward, 0, 1, 2, 6
)


def _attention_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.pages:
        raise NotImplementedError(
            "block_table: attention over pages has no gradients; expected keys and values without pages"
        )
    needs = ctx.needs_input_grad
    wanted = [needs[0], needs[1], needs[2], needs[7]]
    found = attention_backward(*ctx.saved_tensors, *ctx.numbers, dy, wanted, *ctx.running)
    dq, dkeys, dvalues, dsinks = (x if wants else None for x, wants in zip(found, wanted, strict=True))
    return dq, dkeys, dvalues, None, None, None, None, dsinks, *(None,) * 7


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save([0, 1, 2, 3, 4, 5, 7], slice(8, -3))(ctx, inputs, output)
    ctx.pages = inputs[6] is not None


attention.register_autograd(_attention_backward, setup_context=_save_attention)
