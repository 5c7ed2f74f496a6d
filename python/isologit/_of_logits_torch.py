"""The functions of given logits on torch tensors: one operator, its gradient, and what callers give as its rows."""

from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native, _numbers, _of_logits
from isologit._torch.schema import operator

_DTYPES = {torch.bfloat16: _native.BF16, torch.float16: _native.F16, torch.float32: _native.F32}
_ARGS = (
    "Tensor logits, Tensor temperatures, Tensor? token_ids, SymInt ignore_index, str output, int threads, "
    "int[] processors, str kernel"
)


def _fill(request: Any, logits: Tensor, temperatures: Tensor, token_ids: Tensor | None, ignore_index: int) -> Any:
    """What the requests of both passes begin with: logits [N, V], temperatures [1] or [N], token_ids [N, K]."""
    if logits.dtype not in _DTYPES:
        raise ValueError(f"logits: dtype is {logits.dtype}; expected torch.float32, torch.bfloat16 or torch.float16")
    request.logits = _native.Matrix(logits.data_ptr(), *logits.shape, logits.stride(0), _DTYPES[logits.dtype])
    request.temperatures, request.temperature_count = temperatures.data_ptr(), temperatures.shape[0]
    request.has_ignore_index, request.ignore_index = 1, ignore_index
    if token_ids is not None:
        request.token_ids, request.ids_per_row = token_ids.data_ptr(), token_ids.shape[1]
    return request


def output_of(logits: Tensor, token_ids: Tensor | None, output: str) -> Tensor:
    shapes = {"log_softmax": logits.shape, "logprobs": None if token_ids is None else token_ids.shape}
    return logits.new_empty(shapes.get(output) or (logits.shape[0],), dtype=torch.float32)


def run_of_logits(
    logits: Tensor,
    temperatures: Tensor,
    token_ids: Tensor | None,
    ignore_index: int,
    output: str,
    running: _native.Running,
) -> Tensor:
    """output: "log_softmax" [N, V], "logprobs" of token_ids [N, K], "entropy" or "lse" [N]."""
    result = output_of(logits, token_ids, output)
    request = _fill(_native.LogitsRequest(), logits, temperatures, token_ids, ignore_index)
    setattr(request, output, result.data_ptr())
    if output == "log_softmax":
        request.log_softmax_row_stride = logits.shape[1]
    if result.numel():
        _native.score_logits(request, running)
    return result


def run_of_logits_backward(
    g: Tensor,
    logits: Tensor,
    temperatures: Tensor,
    token_ids: Tensor | None,
    ignore_index: int,
    output: str,
    running: _native.Running,
) -> Tensor:
    """The gradient of the logits, f32, from the upstream of what run_of_logits returned."""
    g = g.to(torch.float32).contiguous()
    result = logits.new_empty(logits.shape, dtype=torch.float32)
    request = _fill(_native.LogitsBackwardRequest(), logits, temperatures, token_ids, ignore_index)
    setattr(request, f"d_{output}", g.data_ptr())
    if output == "log_softmax":
        request.d_log_softmax_row_stride = logits.shape[1]
    request.dlogits, request.dlogits_row_stride = result.data_ptr(), logits.shape[1]
    if len(result):
        _native.backward_logits(request, running)
    return result


of_logits = operator(
    "of_logits",
    f"({_ARGS}) -> Tensor",
    lambda *args: run_of_logits(*args[:5], _native.Running(*args[5:])),
    lambda *args: output_of(args[0], args[2], args[4]),
)
of_logits_backward = operator(
    "of_logits_backward",
    f"(Tensor g, {_ARGS}) -> Tensor",
    lambda g, *args: run_of_logits_backward(g, *args[:5], _native.Running(*args[5:])),
    lambda _, *args: args[0].new_empty(args[0].shape, dtype=torch.float32),
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.rest = inputs[3:]


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    logits = ctx.saved_tensors[0]
    dlogits = of_logits_backward(g, *ctx.saved_tensors, *ctx.rest)
    return (dlogits.to(logits.dtype), *(None,) * 7)


of_logits.register_autograd(_backward, setup_context=_setup)


def temperatures_of(temperature: Any, logits: Tensor) -> Tensor:
    """[1] or [N]: a number, or one for each row of logits."""
    if _numbers.traced():
        temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device).detach()
    else:
        with _numbers.usual_rounding():
            temperatures = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device).detach()
    _of_logits.check_temperature(temperatures.numel(), temperatures.shape, logits.shape[:-1])
    return temperatures.reshape(-1).contiguous()


def run(
    logits: Tensor,
    output: str,
    token_ids: Tensor | None,
    ignore_index: int,
    temperature: float | Tensor,
    running: _native.Running,
) -> Tensor:
    own = temperature if isinstance(temperature, Tensor) and temperature.dim() > 0 else None  # others are numbers
    _inputs.require_one_device(logits=logits, temperature=own)
    _inputs.refuse_tangents(logits=logits)
    _of_logits.check_shape("logits", logits.shape)
    lead, vocab_size = logits.shape[:-1], logits.shape[-1]
    rows = logits.reshape(lead.numel(), vocab_size)
    if vocab_size > 1 and rows.stride(1) != 1:
        rows = rows.contiguous()
    temperatures = temperatures_of(temperature, logits)
    shape = {"log_softmax": logits.shape}.get(output, lead)
    ids = None
    if token_ids is not None:
        ids = _inputs.token_ids_of(token_ids, logits)
        shape = (*lead, *ids.shape[1:])
        ids = ids if ids.ndim == 2 else ids[:, None]
    return of_logits(rows, temperatures, ids, ignore_index, output, *running[:3]).reshape(shape)
