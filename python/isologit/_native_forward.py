"""forward.h and forward_backward.h by ctypes: the structures, and the calls as _native has them."""

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

from isologit import _native
from isologit._native_structures import (
    ATTENTION,
    PROCESSORS,
    PROGRESS_AND_USER,
    ROTARY,
    SIZE,
    THREADS_AND_KERNEL,
    Matrix,
    Output,
    Sized,
    Tensor,
    Vector,
    pointers,
)


class _Options(Sized):
    _fields_ = [*SIZE, *THREADS_AND_KERNEL, *PROGRESS_AND_USER, *PROCESSORS]


# Runs of members that an operator and its gradient share.
_RMS_NORM = [*SIZE, ("x", Tensor), ("weight", Vector), ("epsilon", c_float), ("one_plus_weight", c_int32)]
_GATE = [*SIZE, ("kind", c_int32), ("gate", Tensor), ("up", Tensor), ("alpha", c_float), ("limit", c_float)]


class Linear(Sized):
    _fields_ = [
        *SIZE,
        ("x", Matrix),
        ("weight", Matrix),
        ("bias", Vector),
        ("y", c_void_p),
        ("y_row_stride", c_int64),
    ]


class RmsNorm(Sized):
    _fields_ = [*_RMS_NORM, ("y", Output)]


class LayerNorm(Sized):
    _fields_ = [
        *SIZE,
        ("x", Tensor),
        ("weight", Vector),
        ("bias", Vector),
        ("epsilon", c_float),
        ("y", Output),
    ]


class Residual(Sized):
    _fields_ = [*SIZE, ("x", Tensor), ("a", Tensor), ("b", Tensor), ("multiplier", c_float), ("y", Output)]


class Combine(Sized):
    _fields_ = [*SIZE, ("x", Tensor), ("weights", c_void_p), ("y", Output)]


class Gate(Sized):
    _fields_ = [*_GATE, ("y", Output)]


class Rotary(Sized):
    _fields_ = [*SIZE, *ROTARY]


class RotaryFrequencies(Sized):
    _fields_ = [
        *SIZE,
        ("theta", c_float),
        ("dim", c_int64),
        ("scaling", c_int32),
        ("factor", c_float),
        ("low_freq_factor", c_float),
        ("high_freq_factor", c_float),
        ("original_max_position", c_int64),
        ("frequencies", c_void_p),
        ("beta_fast", c_float),
        ("beta_slow", c_float),
        ("not_truncated", c_int32),
    ]


class Attention(Sized):
    _fields_ = [*SIZE, *ATTENTION]


class RmsNormBackward(Sized):
    _fields_ = [*_RMS_NORM, ("dy", Tensor), ("dx", Output), ("dweight", c_void_p)]


class LayerNormBackward(Sized):
    _fields_ = [
        *SIZE,
        ("x", Tensor),
        ("weight", Vector),
        ("epsilon", c_float),
        ("dbias_dtype", c_int32),
        ("dy", Tensor),
        ("dx", Output),
        *pointers("dweight", "dbias"),
    ]


class CombineBackward(Sized):
    _fields_ = [*SIZE, ("combine", POINTER(Combine)), ("dy", Tensor), ("dx", Output), ("dweights", c_void_p)]


class GateBackward(Sized):
    _fields_ = [*_GATE, ("dy", Tensor), ("dgate", Output), ("dup", Output)]


class AttentionBackward(Sized):
    _fields_ = [
        *SIZE,
        ("attention", POINTER(Attention)),
        ("dy", Tensor),
        ("dq", Output),
        ("dkeys", Output),
        ("dvalues", Output),
        ("dsinks", c_void_p),
    ]


_MESSAGE = [c_char_p, c_size_t]
_FUNCTIONS = {
    request: _native.function(name, c_int, [POINTER(request), POINTER(_Options), c_void_p, *_MESSAGE])
    for name, request in (
        ("linear", Linear),
        ("rms_norm", RmsNorm),
        ("layer_norm", LayerNorm),
        ("residual", Residual),
        ("combine", Combine),
        ("gate", Gate),
        ("rotary", Rotary),
        ("attention", Attention),
        ("rms_norm_backward", RmsNormBackward),
        ("layer_norm_backward", LayerNormBackward),
        ("combine_backward", CombineBackward),
        ("gate_backward", GateBackward),
        ("attention_backward", AttentionBackward),
    )
}
_FREQUENCIES = _native.function("rotary_frequencies", c_int, [POINTER(RotaryFrequencies), *_MESSAGE])


def pointer_to(request: Any) -> Any:
    """For a member of another request."""
    return ctypes.pointer(request)


def run(request: Any, running: _native.Running) -> None:
    """The operator that the request is of."""
    options = _Options(**running.members())
    _native.Interruptible(options, running).call(_FUNCTIONS[type(request)], request, options, None)


def rotary_frequencies(request: RotaryFrequencies) -> None:
    _native.call(_FREQUENCIES, request)
