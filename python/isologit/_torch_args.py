"""What the operators of torch take: their schemas, their arguments by name, tensors as the C interface sees them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from isologit import _arrays, _native

DTYPES = {torch.bfloat16: _native.BF16, torch.float16: _native.F16, torch.float32: _native.F32}

HEAD = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor temperatures, SymInt vocab_size, float? softcap, "
    "float? scale, float? divide, str arithmetic, int threads, str kernel"
)
SUPPORT = "Tensor? mask, Tensor? kept_offsets, Tensor? kept_ids, Tensor? banned_offsets, Tensor? banned_ids"


Request = _native.ScoreRequest | _native.BackwardRequest | _native.SampleRequest


class HeadArgs(NamedTuple):
    """hidden [N, H], temperatures [1] or [N]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    temperatures: Tensor
    vocab_size: int
    softcap: float | None
    scale: float | None
    divide: float | None
    arithmetic: str
    threads: int
    kernel: str

    def how(self) -> dict[str, Any]:
        """The options that score and backward share."""
        return {"arithmetic": self.arithmetic, "threads": self.threads, "kernel": self.kernel}

    def native(self) -> _native.Head:
        require_cpu(hidden=self.hidden, weight=self.weight, bias=self.bias)
        if not rows_are_adjacent(self.weight):
            raise ValueError(
                f"weight: shape is {list(self.weight.shape)}, strides are {list(self.weight.stride())}; expected a "
                "last stride of 1. The weight is read in place and not copied: store it as [V, H] row by row"
            )
        vector = None
        if self.bias is not None:
            vector = _native.Vector(self.bias.data_ptr(), self.bias.shape[0], dtype_code(self.bias, "bias"))
        return _native.make_head(
            matrix(self.weight, "weight"),
            vector,
            vocab_size=self.vocab_size,
            softcap=self.softcap,
            scale=self.scale,
            divide=self.divide,
        )

    def set_rows(self, request: Request) -> None:
        request.hidden = matrix(self.hidden, "hidden")
        request.temperatures, request.temperature_count = self.temperatures.data_ptr(), self.temperatures.shape[0]


class SupportArgs(NamedTuple):
    """mask [1, V] or [N, V], or lists of ids."""

    mask: Tensor | None
    kept_offsets: Tensor | None
    kept_ids: Tensor | None
    banned_offsets: Tensor | None
    banned_ids: Tensor | None

    def set_lists(self, request: Request, rows: int) -> tuple[np.ndarray, ...]:
        """Returns the arrays that must outlive the call."""
        if self.kept_offsets is not None and self.kept_ids is not None:
            request.kept = _native.IdLists(self.kept_offsets.data_ptr(), self.kept_ids.data_ptr())
        if self.banned_offsets is not None and self.banned_ids is not None:
            request.banned = _native.IdLists(self.banned_offsets.data_ptr(), self.banned_ids.data_ptr())
        if self.mask is None:
            return ()
        which, offsets, ids = _arrays.mask_lists(self.mask.numpy(), rows)
        setattr(request, which, _native.IdLists(offsets.ctypes.data, ids.ctypes.data))
        return offsets, ids


def require_cpu(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device.type not in ("cpu", "meta"):
            raise NotImplementedError(
                f"{name} is on {tensor.device}; this build of isologit computes on the CPU only: pass {name}.cpu()"
            )


def dtype_code(tensor: Tensor, name: str) -> int:
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name}: dtype is {tensor.dtype}; expected torch.bfloat16, torch.float16 or torch.float32")
    return DTYPES[tensor.dtype]


def rows_are_adjacent(tensor: Tensor) -> bool:
    return tensor.shape[-1] <= 1 or tensor.stride(-1) == 1


def matrix(tensor: Tensor, name: str) -> _native.Matrix:
    return _native.Matrix(
        tensor.data_ptr(), tensor.shape[0], tensor.shape[1], tensor.stride(0), dtype_code(tensor, name)
    )


def gradient(tensor: Tensor, name: str, accumulate: bool = False) -> _native.Gradient:
    stride = tensor.stride(0) if tensor.dim() > 1 else 0
    return _native.Gradient(tensor.data_ptr(), stride, dtype_code(tensor, name), accumulate)
