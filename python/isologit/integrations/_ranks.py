"""Process groups that adapters are given: of one rank, or of several that split the vocabulary."""

import importlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import isologit
from isologit import Scores


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


def score_of_a_part(hidden: Tensor, weight: Tensor, ids: Tensor | None, group: Any, **options: Any) -> Scores:
    """isologit.parallel.score of hidden [b, s / ranks, H], this rank's part of a sequence, for ids [b, s] of all of it:
    each rank scores its part, as rows of its own, and has the others' results [b, s] too."""
    from isologit import parallel

    length, rank = hidden.shape[1], dist.get_rank(group)
    part = slice(length * rank, length * (rank + 1))
    temperature = options.get("temperature")
    if isinstance(temperature, Tensor) and temperature.ndim == 2:
        options["temperature"] = temperature[:, part]
    own = None if ids is None else ids[:, part]
    scores = parallel.score(hidden, weight, own, group=group, rows="own", **options)
    results = {name: value for name, value in scores._asdict().items() if value is not None and name != "counts"}
    return scores._replace(**{name: _Gathered.apply(value, part, group) for name, value in results.items()})


class _Gathered(torch.autograd.Function):
    """Results [b, s, ...] of all parts of the sequence. Their upstream is the same on all ranks: each takes its own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, part: slice, group: Any) -> Tensor:
        ctx.part = part
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, own, group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream[:, ctx.part], None, None


def refuse_shards(group: Any, name: str) -> None:
    """Of a process group that splits the vocabulary: one process only."""
    if has_several_ranks(group):
        raise NotImplementedError(
            f"{name} has {dist.get_world_size(group)} ranks; expected one: this adapter does not take what is "
            "split over ranks: use a tensor-parallel size of 1, or isologit.parallel itself"
        )
