"""Weights of f8, which have scales."""

import sys
from typing import Any

import numpy as np

from isologit import _inputs, _native, _numbers
from isologit._inputs import Array

_ENCODINGS = {
    "float8_e4m3fn": _native.F8_E4M3,
    "float8_e5m2": _native.F8_E5M2,
    "f8_e4m3": _native.F8_E4M3,
    "f8_e5m2": _native.F8_E5M2,
}
_PRODUCTS = {"real": _native.F8_REAL, "bf16": _native.F8_BF16}


class F8Weight:
    """A weight of f8 [V, H] for `score`, `linear_logprobs`, `linear_cross_entropy`, `logits`, `sample` and `partial`.

    Each number stands for its value times its scale. It is decoded a tile at a time, never as a whole. It is frozen:
    gradients are those of hidden, bias and the factors of lora, outside of torch.compile.

    Parameters
    ----------
    values : [V, H]
        torch.float8_e4m3fn or torch.float8_e5m2, ml_dtypes' types of these names, or uint8 with `encoding`.
    scale : number or array
        One for all; one a row, [V] or [V, 1]; or with `block` one a block. float32, float16 or bfloat16.
    block : (int, int), optional
        Rows and columns that share a scale, such as (128, 128); the last blocks may be partial.
    product : {"real", "bf16"}, default "real"
        "real": the real product of value and scale. "bf16": this product rounded once to bf16, the weight that is made
        by dequantising to bf16.
    first_row : int, default 0
        Of a part of a weight: the row of the whole that it begins with, as the scales count it.
    encoding : {"f8_e4m3", "f8_e5m2"}, optional
        What uint8 holds.
    """

    def __init__(
        self,
        values: Array,
        scale: Any,
        *,
        block: tuple[int, int] | None = None,
        product: str = "real",
        first_row: int = 0,
        encoding: str | None = None,
    ) -> None:
        self.values = values if _inputs.is_tensor(values) else np.asarray(values)
        if self.values.ndim != 2:
            raise ValueError(f"F8Weight: values is {list(self.values.shape)}; expected [V, H]")
        name = _inputs.dtype_name(self.values)
        if (name == "uint8") == (encoding is None) or (encoding or name) not in _ENCODINGS:
            raise ValueError(
                f"F8Weight: values: dtype is {name} and encoding is {encoding!r}; expected float8_e4m3fn or "
                "float8_e5m2 without encoding, or uint8 with 'f8_e4m3' or 'f8_e5m2'"
            )
        if product not in _PRODUCTS:
            raise ValueError(f"F8Weight: product is {product!r}; expected 'real' or 'bf16'")
        self.encoding, self.product = _ENCODINGS[encoding or name], _PRODUCTS[product]
        self.scale = _scales(scale, self.values, block)
        self.block = (0 if self.scale.shape[0] == 1 else 1, 0)  # one for all, or one a row
        if block is not None:
            self.block = tuple(_numbers.integer(size, "block", 1) for size in block)
        self.first_row = _numbers.integer(first_row, "first_row", 0)

    shape = property(lambda self: self.values.shape)
    ndim = 2

    def refuse_graphs(self) -> None:
        if _numbers.traced():
            raise NotImplementedError(
                "weight: an F8Weight under torch.compile; expected a call outside of what is compiled"
            )

    def set_scales(self, head: _native.Head) -> None:
        """Of a head whose encoded weight are the values, and how these are multiplied."""
        _inputs.require_cpu(scale=self.scale)
        head.f8_scales, head.f8_product = _inputs.matrix(self.scale, "scale"), self.product
        head.f8_block_rows, head.f8_block_cols = self.block
        head.f8_first_row = self.first_row


def _scales(scale: Any, values: Array, block: tuple[int, int] | None) -> Array:
    """[row blocks, column blocks]"""
    if isinstance(scale, (int, float)) and not isinstance(scale, bool):
        scale = np.array(_numbers.f32(scale, "scale"), np.float32)
        scale = sys.modules["torch"].from_numpy(scale) if _inputs.is_tensor(values) else scale
    elif not _inputs.is_tensor(scale):
        scale = np.asarray(scale)
    if block is not None and (not isinstance(block, (tuple, list)) or len(block) != 2):
        raise ValueError(f"F8Weight: block is {block!r}; expected (rows, columns)")
    wanted = "one scale for each block, [row blocks, column blocks]" if block else "a number, [V] or [V, 1]"
    shape = list(scale.shape)
    if block is None and len(shape) < 2:
        scale = scale.reshape(-1, 1)
    if scale.ndim != 2 or (block is None and scale.shape[1] != 1):
        raise ValueError(f"F8Weight: scale is {shape}; expected {wanted}")
    return _inputs.contiguous(scale)
