"""The order of CONTRACT.md 3: descending logits, equal ones by ascending id. Comparisons alone, nothing to prove."""

import torch
from torch import Tensor

from isologit.torch_backend.folds import columns
from isologit.torch_backend.limits import slices

_OUTSIDE = -(2**63)  # below the key of any logit


def rank(z: Tensor, kept: Tensor | None, token_ids: Tensor) -> Tensor:
    """[n] from 1 on, of ids [n]; 0 outside of the support. Rows without NaN."""
    ids = token_ids[:, None]
    own = z.gather(1, ids)
    before = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    for part in slices(z.shape[1], columns(len(z))):
        here = z[:, part]
        numbers = torch.arange(part.start, part.stop, device=z.device)
        ahead = (here > own) | ((here == own) & (numbers < ids))
        before += (ahead if kept is None else ahead & kept[:, part]).sum(1)
    return before + 1 if kept is None else torch.where(is_kept(kept, ids)[:, 0], before + 1, 0)


def is_kept(kept: Tensor, ids: Tensor) -> Tensor:
    """Of ids [n, K] whether they are in the support [1, V] or [n, V]."""
    return kept.expand(len(ids), -1).gather(1, ids)


def top_k(z: Tensor, kept: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Ids [n, k] and their logits; past the end of the support -1 and -inf. Rows without NaN.

    By keys of 64 bits that no two ids share: the logit's bits, in the order of the numbers, and below them the id.
    """
    best = torch.full((len(z), k), _OUTSIDE, dtype=torch.int64, device=z.device)
    for part in slices(z.shape[1], columns(len(z))):
        bits = (z[:, part] + 0.0).contiguous().view(torch.int32)
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
        keys = (ordered << 32) + (2**31 - torch.arange(part.start, part.stop, device=z.device))
        if kept is not None:
            keys = torch.where(kept[:, part], keys, _OUTSIDE)
        best = torch.cat([best, keys], 1).topk(k, dim=1, sorted=True).values
    ids = 2**31 - (best & 0xFFFFFFFF)
    ids = torch.where(best == _OUTSIDE, -1, ids)
    logits = torch.where(ids < 0, -torch.inf, z.gather(1, ids.clamp(min=0)))
    return ids, logits
