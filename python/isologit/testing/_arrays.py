"""Operands for a head under test, of numpy or torch, and what it gives as bits."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64"}
FORMATS = {"bf16": (8, -126), "f16": (11, -14), "f32": (24, -126)}  # bits of significand, least exponent
_WORDS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass
class Output:
    """Numbers as bits, so that nothing is lost in comparing them."""

    bits: np.ndarray
    dtype: str  # bf16, f16, f32 or f64

    @property
    def values(self) -> np.ndarray:
        """As float64, exactly."""
        if self.dtype == "bf16":
            return (self.bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return self.bits.view({"f16": np.float16, "f32": np.float32, "f64": np.float64}[self.dtype]).astype(np.float64)

    def __getitem__(self, key: Any) -> "Output":
        return Output(self.bits[key], self.dtype)


def output_of(array: Any) -> Output:
    """Of a numpy array or a tensor on any device."""
    name = str(array.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"the head gave {name}; expected one of {', '.join(DTYPES)}")
    if not isinstance(array, np.ndarray):
        import torch

        array = array.detach().cpu().contiguous()
        array = array.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[array.element_size()]).numpy()
    array = np.ascontiguousarray(array)
    return Output(array.view(_WORDS[array.dtype.itemsize]), DTYPES[name])


def concatenated(outputs: list[Output]) -> Output:
    return Output(np.concatenate([one.bits for one in outputs]), outputs[0].dtype)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """f32 numbers rounded to the type, as f32."""
    values = values.astype(np.float32)
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return values


class Head:
    """A function of hidden [N, H] and weight [V, H], and of token_ids [N] if it takes three arguments."""

    def __init__(self, fn: Callable[..., Any], dtype: str, device: str, arrays: str, takes_ids: bool) -> None:
        self.fn, self.dtype, self.device, self.takes_ids = fn, dtype, device, takes_ids
        self.is_torch = arrays == "torch"

    def array(self, values: np.ndarray) -> Any:
        """Of this head's kind, its own memory; values are numbers of its type, or ids."""
        if not self.is_torch:
            return values.astype(self.dtype) if values.dtype == np.float32 else values.copy()
        import torch

        tensor = torch.tensor(values, device=self.device)
        return tensor.to(getattr(torch, self.dtype)) if values.dtype == np.float32 else tensor

    def raw(self, hidden: Any, weight: Any, ids: Any) -> Any:
        return self.fn(hidden, weight, ids) if self.takes_ids else self.fn(hidden, weight)

    def call(self, hidden: Any, weight: Any, ids: Any) -> Output:
        """On operands of its kind. Without gradients: with them a head may take another way."""
        if not self.is_torch:
            return output_of(self.raw(hidden, weight, ids))
        import torch

        with torch.no_grad():
            return output_of(self.raw(hidden, weight, ids))

    def __call__(self, hidden: np.ndarray, weight: np.ndarray, ids: np.ndarray) -> Output:
        return self.call(*(self.array(one) for one in (hidden, weight, ids)))


def torch_is_imported() -> bool:
    return "torch" in sys.modules
