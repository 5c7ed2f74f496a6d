"""How an operator whose rows are independent ends: rounded where a bound proves it, by the core where it does not."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from isologit.torch_backend import core, limits
from isologit.torch_backend.rounding import rounded

UNIT = 2.0**-53


def check(x: Tensor, running: tuple[Any, ...]) -> None:
    """The kernel that was asked for, of an operator's last three arguments."""
    core.check_kernel(running[2], x.device)


def f32(number: float) -> float:
    """A number of a config, as the library takes it."""
    return ctypes.c_float(number).value


def slices(rows: int, dim: int) -> Iterator[slice]:
    """Of rows of so many elements, some twenty f64 of which are alive at a time."""
    return limits.slices(rows, limits.PRODUCTS // dim)


def proven(value: Tensor, error: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """value rounded, and whether all that lies within error of it is rounded to the same number."""
    sure = (rounded(value - error, dtype) == rounded(value + error, dtype)) & value.isfinite()
    return rounded(value, dtype), sure


def finished(value: Tensor, error: Tensor, dtype: torch.dtype, by_core: Callable[[Tensor], Tensor]) -> Tensor:
    """value [n, dim] rounded; by_core(rows) makes whole rows [k, dim] in which it is not proven. A value that is no
    number, or an error that is none, proves nothing."""
    result, sure = proven(value, error, dtype)
    rows = (~sure).any(-1).nonzero()[:, 0]
    if len(rows):
        result[rows] = by_core(rows).to(result.device)
    return result


def on_cpu(x: Tensor | None, rows: Tensor | None = None) -> Tensor | None:
    """A vector, or these rows of a matrix, for the core."""
    return None if x is None else (x if rows is None else x[rows]).detach().cpu()


def like(x: Tensor | None, wants: bool, beside: Tensor) -> Tensor:
    """A gradient of x to be written; or, where it is not wanted, none."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device) if wants else none_like(x, beside)


def none_like(x: Tensor | None, like: Tensor) -> Tensor:
    """The gradient that is not wanted."""
    return torch.empty(0, dtype=torch.float32 if x is None else x.dtype, device=like.device)
