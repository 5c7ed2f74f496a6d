"""Whether operands still hold what the forward pass read: sums of their bits, a pass over memory each.

Autograd sees what is written to a tensor, but not what is written past it, by `.data` or from another process.
"""

from typing import Any

import torch
from torch import Tensor

from isologit import _inputs, _native
from isologit._inputs import HeadArgs
from isologit._support import SupportArgs

_WORDS = (torch.int64, torch.int32, torch.int16, torch.int8)
_ROW_FACTOR = 0x9E3779B97F4A7C15 - 2**64  # makes of a row's number a factor of its own, so that the order is seen


def _words(tensor: Tensor) -> Tensor:
    """As rows of the widest integers that its place and size allow."""
    tensor = tensor.reshape(-1, 1) if tensor.dim() < 2 else tensor
    for word in _WORDS:
        try:
            return tensor.view(word)
        except RuntimeError:
            continue
    return tensor.contiguous().view(torch.int8)


def of(tensor: Any) -> int:
    """Changes with any single value, and with any order of the rows."""
    if _inputs.is_f8(tensor):
        return (of(tensor.values) + 3 * of(tensor.scale)) % 2**63
    if tensor is None or tensor.numel() == 0:
        return 0
    sums = _words(tensor.detach()).sum(-1, dtype=torch.int64).reshape(-1)
    factors = torch.arange(1, len(sums) + 1, device=sums.device) * _ROW_FACTOR
    return int((sums * (factors ^ factors >> 31)).sum())


def fingerprint(head: HeadArgs, support: SupportArgs, token_ids: Tensor | None) -> Tensor:
    """Of hidden, weight, bias, temperatures, and all others; as doubles of these bits."""
    factors = (head.lora_a, head.lora_b)
    others = [of(values) * (2 * place + 1) for place, values in enumerate((*support, token_ids, *factors))]
    sums = [*map(of, head[:4]), sum(others) % 2**63]
    return torch.tensor(sums, dtype=torch.int64).view(torch.float64)


def check(kept: Tensor, *operands: Any) -> None:
    """An error that names the operand which is not what it was when its fingerprint was kept."""
    assert kept.numel() == _native.SUMMARY_DOUBLES
    now = fingerprint(*operands).view(torch.int64)
    names = ("hidden", "weight", "bias", "temperature", "the support, token_ids or lora")
    for name, same in zip(names, (now == kept.cpu().contiguous().view(torch.int64)).tolist(), strict=True):
        if not same:
            raise ValueError(
                f"{name}: written to since the forward pass, unseen by autograd (as .data does); expected what it was "
                "then: run the forward pass again"
            )
