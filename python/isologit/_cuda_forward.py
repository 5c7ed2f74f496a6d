"""The operators of a forward pass of isologit/cuda.h. Operands are [tokens, heads, dim] on one CUDA device, the
elements of each row adjacent, and y is of the operand's shape and dtype."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ._cuda_operands import adjacent, dtype_code, pointer, vector
from ._cuda_structures import AttentionRequest, GateRequest, Output, ResidualRequest, RmsNormRequest, RotaryRequest
from ._cuda_structures import Tensor as Activations

_RELU_SQUARED, _CLAMPED_SWISH = 2, 3
_NAMES = {
    RmsNormRequest: "rms_norm",
    ResidualRequest: "residual",
    GateRequest: "gate",
    RotaryRequest: "rotary",
    AttentionRequest: "attention",
}


class Operators:
    """What the library makes of activations."""

    def rms_norm(self, x: Tensor, weight: Tensor | None, epsilon: float, one_plus_weight: bool, y: Tensor) -> None:
        weight = None if weight is None else weight.contiguous()
        numbers = {"epsilon": epsilon, "one_plus_weight": one_plus_weight}
        self._make(RmsNormRequest, y, x=_tensor(x), weight=vector("weight", weight), **numbers)

    def residual(self, x: Tensor, a: Tensor, b: Tensor | None, multiplier: float, y: Tensor) -> None:
        self._make(ResidualRequest, y, x=_tensor(x), a=_tensor(a), b=_tensor(b), multiplier=multiplier)

    def gate(self, g: Tensor, up: Tensor | None, kind: int, alpha: float, limit: float, y: Tensor) -> Tensor | None:
        """kind as forward.h numbers them. Returns the status [2], or None where nothing can be left open; if its first
        is not 0, y is of no use."""
        decided = kind == _RELU_SQUARED or (kind != _CLAMPED_SWISH and g.dtype != torch.float32)
        status = None if decided else _status(g)
        numbers = {"kind": kind, "alpha": alpha, "limit": limit}
        self._make(GateRequest, y, gate=_tensor(g), up=_tensor(up), status=pointer(status), **numbers)
        return status

    def rotary(
        self, x: Tensor, positions: Tensor, frequencies: Tensor, layout: int, factor: float, y: Tensor
    ) -> Tensor:
        """Of positions int64 [tokens] and frequencies f32 [pairs]; layout as forward.h numbers them. Returns the status
        [2]: what is not proven, and what is out of range; both 0, or y is of no use."""
        status = _status(x)
        positions, frequencies = positions.contiguous(), frequencies.contiguous()
        self._make(
            RotaryRequest,
            y,
            x=_tensor(x),
            positions=positions.data_ptr(),
            frequencies=frequencies.data_ptr(),
            frequency_count=frequencies.shape[0],
            layout=layout,
            factor=factor,
            status=status.data_ptr(),
        )
        return status

    def attention(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        lists: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        sinks: Tensor | None,
        numbers: tuple[float, float, bool, int],
        y: Tensor,
    ) -> Tensor:
        """q [tokens, heads, dim], keys [tokens, kv_heads, dim] and values, or with a block table [pages, block_size,
        kv_heads, dim]. lists: query_starts, key_counts, first_keys and block_table, as isologit.forward.attention has
        them, on the device; numbers: scale, softcap, causal and window. Returns the status [2]: what is not proven, and
        what is out of range; both 0, or y is of no use."""
        starts, counts, firsts, table = lists
        starts, counts = (x.to(torch.int64).contiguous() for x in (starts, counts))
        q, keys, values = adjacent(q), adjacent(keys), adjacent(values)
        places: dict[str, Any] = {}
        if table is None:
            firsts = counts.cumsum(0) - counts if firsts is None else firsts.to(torch.int64).contiguous()
            places = {"keys": _tensor(keys), "values": _tensor(values), "first_keys": firsts.data_ptr()}
        else:
            table = table.to(torch.int32).contiguous()
            places = {"keys": _slots(keys), "values": _slots(values), "block_table": table.data_ptr()}
            places |= {"blocks_per_sequence": table.shape[1], "block_size": keys.shape[1]}
            places |= {"key_block_stride": keys.stride(0), "value_block_stride": values.stride(0)}
        sinks = None if sinks is None else sinks.contiguous()
        scale, softcap, causal, window = numbers
        status = _status(q)
        self._make(
            AttentionRequest,
            y,
            q=_tensor(q),
            sequences=counts.shape[0],
            query_starts=starts.data_ptr(),
            key_counts=counts.data_ptr(),
            **places,
            scale=scale,
            softcap=softcap,
            not_causal=not causal,
            window=window,
            sinks=pointer(sinks),
            status=status.data_ptr(),
        )
        return status

    def _make(self, of: Any, y: Tensor, **fields: Any) -> None:
        device = y.get_device()
        self.self_test(device)
        stream = torch.cuda.current_stream(device).cuda_stream
        output = Output(y.data_ptr(), y.stride(0), y.stride(1))
        request = of(struct_size=ctypes.sizeof(of), device=device, stream=stream, y=output, **fields)
        if of is AttentionRequest:
            workspace = self._workspace("attention", (ctypes.byref(request),), y.device)
            request.workspace, request.workspace_size = workspace.data_ptr(), workspace.numel()
        self._call(f"isologit_cuda_{_NAMES[of]}", ctypes.byref(request))


def _status(x: Tensor) -> Tensor:
    return torch.empty(2, dtype=torch.int32, device=x.device)


def _tensor(x: Tensor | None) -> Activations:
    if x is None:
        return Activations()
    return Activations(x.data_ptr(), *x.shape, x.stride(0), x.stride(1), dtype_code("x", x))


def _slots(x: Tensor) -> Activations:
    """[pages, block_size, heads, dim]: all slots, with the strides within a page."""
    pages, size, heads, dim = x.shape
    return Activations(x.data_ptr(), pages * size, heads, dim, x.stride(1), x.stride(2), dtype_code("keys", x))
