"""Logits of CUDA tensors, where libisologit_cuda.so lies beside the package; what it does not make, the torch backend
does."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isologit import _cuda, _inputs

LIBRARY = Path(__file__).resolve().parent.parent / "libisologit_cuda.so"


@functools.cache
def library() -> _cuda.Library | None:
    return _cuda.Library(LIBRARY) if LIBRARY.exists() else None


def makes(hidden: Tensor, weight: Tensor, bias: Tensor | None, **asked: Any) -> bool:
    """Whether the library is there and makes this; `asked` are other arguments of isologit.logits."""
    if library() is None or not all(_is_plain(name, value) for name, value in asked.items()):
        return False
    return not _inputs.wants_gradient(hidden, weight, bias)


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, vocab_size: int | None) -> Tensor:
    """f32 logits [..., vocab_size] of hidden [..., H]."""
    rows = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
    result = library().logits(rows, weight, bias, vocab_size=vocab_size)
    return result.reshape(*hidden.shape[:-1], result.shape[-1])


def _is_plain(name: str, value: Any) -> bool:
    if name == "temperature":
        return not isinstance(value, Tensor) and value == 1.0
    if name == "dtype":
        return value in (None, torch.float32)
    if name == "arithmetic":
        return value == "exact"
    return not isinstance(value, Tensor) and not value  # the others are None, False or "" when they are not given
