"""The same operands on any device: elements made of hashed integers by operations that round nowhere but in the last
conversion to their type, and a checksum of the bits of each row of results."""

import json
import re
from pathlib import Path

import torch
from torch import Tensor


def hashed(count: int, seed: int, device: str, start: int = 0) -> Tensor:
    """SplitMix64 of the places from start, as int64 (which wraps)."""
    x = (torch.arange(start, start + count, dtype=torch.int64, device=device) + seed * 1000003) * -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 127) << 23).to(torch.int32).view(torch.float32)


def _normal(bits: Tensor) -> Tensor:
    total = sum((bits >> by) & 0xFFFF for by in (0, 16, 32, 48)) - 131070
    return total.float() * 2.0**-15  # total has 18 bits


def _wild(bits: Tensor) -> Tensor:
    """Exponents over 2^+-24, a third zeros, some tiny beyond any model."""
    x = _normal(bits) * _power_of_two((bits & 0xFFFF) % 49 - 24)
    x = torch.where(((bits >> 20) & 0xFF) < 85, torch.zeros_like(x), x)
    return torch.where(((bits >> 32) & 0xFFF) == 7, x * 2.0**-120, x)


def _ties(bits: Tensor) -> Tensor:
    """Small integers: sums past 2^24 are often midpoints."""
    return ((bits & 0xFF) - 128).float() * _power_of_two((bits >> 8) % 7)


def _special(bits: Tensor) -> Tensor:
    x = _normal(bits)
    kind = (bits >> 5) & 0xFFFF
    x = torch.where(kind == 1, torch.full_like(x, torch.inf), x)
    x = torch.where(kind == 2, torch.full_like(x, -torch.inf), x)
    return torch.where(kind == 3, torch.full_like(x, torch.nan), x)


FAMILIES = {"normal": _normal, "wild": _wild, "ties": _ties, "special": _special}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
# vocabulary, depth, rows, type of hidden, type of weight, family, bias
CASES = {
    "model": (151936, 4096, 34, BF16, BF16, "normal", False),
    "narrow": (32000, 896, 70, BF16, BF16, "normal", True),
    "odd depth": (5003, 901, 70, BF16, BF16, "normal", True),
    "wild": (8192, 2048, 70, BF16, BF16, "wild", False),
    "ties": (8192, 1024, 70, BF16, BF16, "ties", True),
    "special": (4096, 512, 70, BF16, BF16, "special", True),
    "f16": (8192, 1024, 70, F16, F16, "normal", True),
    "f16 ties": (4096, 512, 70, F16, F16, "ties", False),
    "f32": (8192, 1024, 70, F32, F32, "normal", True),
    "f32 wild": (4096, 1024, 70, F32, F32, "wild", False),
    "bf16 under f32": (4096, 1024, 70, BF16, F32, "normal", True),
    "f32 under bf16": (4096, 1024, 70, F32, BF16, "normal", True),
}
# The cases whose logits are looked at in a narrow type too.
NARROW = {"narrow": BF16, "odd depth": BF16, "ties": BF16, "special": BF16, "f16": F16, "f16 ties": F16, "small": BF16}
SMALL = {"small": (300, 136, 34, BF16, BF16, "wild", True), "small odd": (300, 133, 34, F32, F32, "ties", True)}


def matrix(
    rows: int, cols: int, seed: int, device: str, dtype: torch.dtype, family: str, opposed: bool = False
) -> Tensor:
    """opposed: in every third row of the wild family the second half takes back the first."""
    out = torch.empty(rows * cols, dtype=dtype, device=device)
    chunk = 1 << 24
    for i in range(0, rows * cols, chunk):
        count = min(chunk, rows * cols - i)
        out[i : i + count] = FAMILIES[family](hashed(count, seed, device, i)).to(dtype)
    out = out.view(rows, cols)
    if family == "wild":
        half = cols // 2
        first = out[::3, :half].clone()
        out[::3, half : 2 * half] = -first if opposed else first
    return out


def operands(case: tuple, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
    vocab, depth, rows, hidden_type, weight_type, family, with_bias = case
    weight = matrix(vocab, depth, 1, device, weight_type, family, opposed=True)
    hidden = matrix(rows, depth, 2, device, hidden_type, family)
    bias = matrix(1, vocab, 3, device, F32, family).view(-1) if with_bias else None
    return hidden, weight, bias


def checksums(logits: Tensor) -> list[int]:
    """One number a row, of the bits of its elements and their places."""
    places = torch.arange(logits.shape[1], dtype=torch.int64, device=logits.device) * 2654435761 + 1
    bits = torch.int32 if logits.element_size() == 4 else torch.int16
    return [int((row.contiguous().view(bits).to(torch.int64) * places).sum()) for row in logits]


def write_digests(path: Path, digests: dict) -> None:
    """As JSON, with a list of numbers on a line."""
    path.write_text(re.sub(r"\n *(?=-?\d|null|\])", " ", json.dumps(digests, indent=1)) + "\n")
