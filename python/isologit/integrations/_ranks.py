"""Process groups that adapters are given: of one rank, or of several that split the vocabulary."""

import importlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import isologit


def has_several_ranks(group: Any) -> bool:
    return group is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def functions_over(group: Any) -> tuple[Any, dict[str, Any]]:
    """Where the functions are, and what to tell them of a group that may split the vocabulary."""
    if not has_several_ranks(group):
        return isologit, {}
    return importlib.import_module("isologit.parallel"), {"group": group}


def gradient_of_one_rank(hidden: Tensor, group: Any) -> Tensor:
    """hidden, for a caller that adds up its gradients over the ranks, each of which has the whole: the first passes it
    on, the others 0, so that nothing is rounded."""
    return _OfOneRank.apply(hidden, group)


class _OfOneRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream if dist.get_rank(ctx.group) == 0 else torch.zeros_like(upstream), None


def refuse_shards(group: Any, name: str) -> None:
    """Of a process group that splits the vocabulary: one process only."""
    if has_several_ranks(group):
        raise NotImplementedError(
            f"{name} has {dist.get_world_size(group)} ranks; expected one: this adapter does not take what is "
            "split over ranks: use a tensor-parallel size of 1, or isologit.parallel itself"
        )
