"""Numbers that callers give: integers that fit, f32 parameters rounded once, whatever mode the processor is in.

A C structure or an operator of torch would cut what is too large for it, or refuse it with words of its own.
"""

import contextlib
import ctypes
import math
import operator
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

_libm = ctypes.CDLL("libm.so.6" if sys.platform == "linux" else None)
_libm.fegetenv.argtypes = _libm.fesetenv.argtypes = [ctypes.c_void_p]
_DEFAULT_ENVIRONMENT = -1 % 2 ** (8 * ctypes.sizeof(ctypes.c_void_p))  # FE_DFL_ENV of glibc
_ENVIRONMENT_BYTES = 64  # no fenv_t is larger


def traced() -> bool:
    """Whether torch.compile is tracing this: numbers may be symbols then, and are left to the operators."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


@contextlib.contextmanager
def usual_rounding() -> Iterator[None]:
    """The thread's floating-point mode is that of IEEE 754: to nearest, subnormal numbers kept. torch and others can
    switch to one that flushes them, and then 1e-40 would become 0 on its way to f32."""
    former = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    _libm.fegetenv(former)
    _libm.fesetenv(_DEFAULT_ENVIRONMENT)
    try:
        yield
    finally:
        _libm.fesetenv(former)


def integer(value: Any, name: str, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """The value if it is an integer of this range."""
    if traced():
        return value
    expected = "an integer of 64 bits" if least == -(2**63) else f"an integer from {least} to {most}"
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ValueError(f"{name}: {value!r}; expected {expected}")
    try:
        number = operator.index(value)
    except TypeError:  # an array or a tensor of more than one, or of other numbers
        raise ValueError(f"{name}: {value!r}; expected {expected}") from None
    if not least <= number <= most:
        raise ValueError(f"{name}: {number}; expected {expected}")
    return number


def f64(value: Any, name: str) -> float:
    """A real number as Python has it: NaN is refused, and infinities are for the library to judge."""
    try:
        number = math.nan if isinstance(value, (str, bytes, bool, np.bool_)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{name}: {value!r}; expected a number")
    return number


def f32(value: Any, name: str) -> float:
    """A real number rounded once to f32."""
    number = f64(value, name)
    with usual_rounding(), np.errstate(over="ignore"):
        rounded = float(np.float32(number))
    if math.isinf(rounded):
        raise ValueError(f"{name}: {value!r}; expected a finite number within the range of f32")
    return rounded
