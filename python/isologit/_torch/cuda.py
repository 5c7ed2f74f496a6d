"""Logits of CUDA tensors, where libisologit_cuda.so lies beside the package; what it does not make is refused."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isologit import _cuda

LIBRARY = Path(__file__).resolve().parent.parent / "libisologit_cuda.so"


@functools.cache
def library() -> _cuda.Library | None:
    return _cuda.Library(LIBRARY) if LIBRARY.exists() else None


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, vocab_size: int | None, **others: Any) -> Tensor:
    """f32 logits [..., vocab_size] of hidden [..., H]. `others` are the other arguments of isologit.logits."""
    found = library()
    if found is None:
        raise NotImplementedError(
            f"hidden is on {hidden.device}, and there is no {LIBRARY.name} in {LIBRARY.parent}: without it isologit "
            "computes on the CPU only: pass hidden.cpu() and weight.cpu()"
        )
    given = [
        f"{name} is {'a tensor' if isinstance(value, Tensor) else value}"
        for name, value in others.items()
        if not _is_plain(name, value)
    ]
    if torch.is_grad_enabled():
        named = {"hidden": hidden, "weight": weight, "bias": bias}
        given += [f"{name} requires a gradient" for name, t in named.items() if t is not None and t.requires_grad]
    if given:
        raise NotImplementedError(
            f"{given[0]}, and hidden is on {hidden.device}; on CUDA isologit makes exact logits in torch.float32, "
            "without transforms, gradients and reports: leave that out, or pass hidden.cpu() and weight.cpu()"
        )
    rows = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
    result = found.logits(rows, weight, bias, vocab_size=vocab_size)
    return result.reshape(*hidden.shape[:-1], result.shape[-1])


def _is_plain(name: str, value: Any) -> bool:
    if name == "temperature":
        return not isinstance(value, Tensor) and value == 1.0
    if name == "dtype":
        return value in (None, torch.float32)
    if name == "arithmetic":
        return value == "exact"
    return not isinstance(value, Tensor) and not value  # the others are None, False or "" when they are not given
