"""What the CUDA library is told of tensors."""

import torch
from torch import Tensor

from ._cuda_structures import Matrix, Vector

_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


def dtype_code(name: str, tensor: Tensor) -> int:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} is of {tensor.dtype}; expected bfloat16, float16 or float32")
    return _DTYPES[tensor.dtype]


def adjacent(tensor: Tensor) -> Tensor:
    """The tensor itself when the elements of a row are adjacent, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def vector(name: str, tensor: Tensor | None) -> Vector:
    return Vector() if tensor is None else Vector(tensor.data_ptr(), tensor.numel(), dtype_code(name, tensor))


def matrix(name: str, tensor: Tensor) -> Matrix:
    if tensor.dim() != 2:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; expected two dimensions")
    return Matrix(tensor.data_ptr(), *tensor.shape, tensor.stride(0), dtype_code(name, tensor))
