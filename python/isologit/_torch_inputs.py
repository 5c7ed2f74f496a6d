"""What callers give, in any shape, as the rows that the operators take."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isologit import _arrays, _torch_args


def flatten(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden as [N, H]. A view where strides allow; else, or when elements of a row are not adjacent, a copy."""
    if hidden.dim() < 1 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden is {list(hidden.shape)}, weight is {list(weight.shape)}; expected [..., H] and [V, H]"
        )
    count = 1
    for size in hidden.shape[:-1]:
        count *= size
    rows = hidden.reshape(count, hidden.shape[-1])
    return rows if _torch_args.rows_are_adjacent(rows) else rows.contiguous()


def temperatures(temperature: float | Tensor, hidden: Tensor) -> Tensor:
    lead = hidden.shape[:-1]
    if not isinstance(temperature, Tensor):
        return torch.full((1,), temperature, dtype=torch.float32, device=hidden.device)
    if temperature.dim() == 0:
        return temperature.detach().to(torch.float32).reshape(1)
    if temperature.shape != lead:
        raise ValueError(
            f"temperature: shape is {list(temperature.shape)}; expected a number, or {list(lead)}: one for "
            "each row of hidden"
        )
    return temperature.detach().to(torch.float32).reshape(-1).contiguous()


def ids(token_ids: Tensor, hidden: Tensor) -> Tensor:
    lead = hidden.shape[:-1]
    if token_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"token_ids: dtype is {token_ids.dtype}; expected torch.int64")
    if token_ids.shape == lead:
        shape: tuple[int, ...] = (-1,) if lead else (1,)
    elif token_ids.shape[:-1] == lead and token_ids.dim() == len(lead) + 1:
        count = 1
        for size in lead:
            count *= size
        shape = (count, token_ids.shape[-1])
    else:
        raise ValueError(
            f"token_ids: shape is {list(token_ids.shape)}; expected {list(lead)}, one id a row, or with one "
            "dimension more at the end, K ids a row"
        )
    return token_ids.to(torch.int64).reshape(shape).contiguous()


def mask(mask: Tensor | None, hidden: Tensor, vocab_size: int) -> Tensor | None:
    if mask is None:
        return None
    lead = hidden.shape[:-1]
    if mask.dtype != torch.bool or mask.shape not in ((vocab_size,), (*lead, vocab_size)):
        raise ValueError(
            f"mask: {mask.dtype} {list(mask.shape)}; expected torch.bool [{vocab_size}] or "
            f"{[*lead, vocab_size]}, True where an id stays"
        )
    return mask.reshape(-1, vocab_size)


def lists(lists: Sequence[Sequence[int]] | None, rows: int, name: str) -> tuple[Tensor | None, Tensor | None]:
    if lists is None:
        return None, None
    offsets, ids = _arrays.id_lists(lists, rows, name)
    return torch.from_numpy(offsets), torch.from_numpy(ids)


def vector(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()
