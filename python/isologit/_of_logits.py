"""Functions of given logits, of numpy arrays and torch tensors alike: CONTRACT.md 3a."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from isologit import _inputs, _native, _numbers

_DTYPES = {"bfloat16": _native.BF16, "float16": _native.F16, "float32": _native.F32}


def log_softmax(
    logits: Any, *, temperature: Any = 1.0, threads: int = 0, processors: Iterable[int] | None = None, kernel: str = ""
) -> Any:
    """ln p of every id: z_v - ln sum e^z, each rounded once to f32, [..., V], of logits [..., V] in f32, bf16 or f16.

    temperature: a number, or one a row [...]; the logits are divided by it first. threads and
    processors as in isologit.score. Of a torch tensor, differentiable.
    """
    return _run(logits, ("log_softmax",), None, -100, temperature, (threads, processors, kernel))


def logprobs_of_logits(
    logits: Any,
    token_ids: Any,
    *,
    temperature: Any = 1.0,
    ignore_index: int = -100,
    threads: int = 0,
    processors: Iterable[int] | None = None,
    kernel: str = "",
) -> Any:
    """ln p of the ids [...], one a row, or [..., K], each rounded once to f32. ignore_index has a logprob of 0."""
    return _run(logits, ("logprobs",), token_ids, ignore_index, temperature, (threads, processors, kernel))


def entropy_of_logits(
    logits: Any, *, temperature: Any = 1.0, threads: int = 0, processors: Iterable[int] | None = None, kernel: str = ""
) -> Any:
    """-sum p ln p [...] in nats, rounded once to f32."""
    return _run(logits, ("entropy",), None, -100, temperature, (threads, processors, kernel))


def lse_of_logits(
    logits: Any, *, temperature: Any = 1.0, threads: int = 0, processors: Iterable[int] | None = None, kernel: str = ""
) -> Any:
    """ln sum e^z [...], rounded once to f32."""
    return _run(logits, ("lse",), None, -100, temperature, (threads, processors, kernel))


def _run(
    logits: Any, outputs: tuple[str], token_ids: Any, ignore_index: int, temperature: Any, running: tuple[Any, ...]
) -> Any:
    threads, processors, kernel = running
    if not _numbers.traced():
        ignore_index = _numbers.integer(ignore_index, "ignore_index")
        threads, processors, kernel = _inputs.run_options(threads, processors, kernel)
    running = _native.Running(threads, list(processors or []), kernel)
    if not isinstance(temperature, (list, tuple)) and not hasattr(temperature, "shape") and not _numbers.traced():
        temperature = _numbers.f32(temperature, "temperature")
    if _inputs.is_tensor(logits):
        from isologit import _of_logits_torch

        return _of_logits_torch.run(logits, outputs[0], token_ids, ignore_index, temperature, running)
    logits = np.asarray(logits)
    code = _DTYPES.get(logits.dtype.name)
    if code is None or not logits.dtype.isnative:
        raise ValueError(
            f"logits: dtype is {logits.dtype}; expected float32, float16 or ml_dtypes.bfloat16 in the machine's byte "
            "order"
        )
    check_shape("logits", logits.shape)
    lead, vocab_size = logits.shape[:-1], logits.shape[-1]
    rows = logits.reshape(int(np.prod(lead)), vocab_size)
    if (vocab_size > 1 and rows.strides[1] != rows.itemsize) or rows.strides[0] % rows.itemsize != 0:
        rows = np.ascontiguousarray(rows)
    with _numbers.usual_rounding(), np.errstate(over="ignore"):  # the library refuses the infinity
        temperatures = np.ascontiguousarray(temperature, dtype=np.float32)
    check_temperature(temperatures.size, temperatures.shape, lead)
    shape = lead
    request = _native.LogitsRequest(
        logits=_native.Matrix(rows.ctypes.data, *rows.shape, rows.strides[0] // rows.itemsize, code),
        temperatures=temperatures.ctypes.data,
        temperature_count=temperatures.size,
        has_ignore_index=1,
        ignore_index=ignore_index,
        log_softmax_row_stride=vocab_size,
    )
    if token_ids is not None:
        ids = _inputs.token_ids_of(token_ids, logits)
        request.ids_per_row = 1 if ids.ndim == 1 else ids.shape[1]
        request.token_ids, shape = ids.ctypes.data, np.shape(token_ids)
    result = np.zeros((*lead, vocab_size) if outputs[0] == "log_softmax" else shape, dtype=np.float32)
    setattr(request, outputs[0], result.ctypes.data)
    if result.size:
        _native.score_logits(request, running)
    return result


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 1 or shape[-1] < 1:
        raise ValueError(f"{name}: shape is {list(shape)}; expected [..., V] with at least one id")


def check_temperature(size: int, shape: tuple[int, ...], lead: tuple[int, ...]) -> None:
    if size != 1 and tuple(shape) != tuple(lead):
        raise ValueError(
            f"temperature: shape is {list(shape)}; expected a number, or {list(lead)}: one for each row of logits"
        )
