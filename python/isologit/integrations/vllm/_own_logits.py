"""Prompt scores of a head that is split over ranks, without gathering its logits.

A prompt's logits go nowhere but into the scores that are returned, unlike those that a token is drawn from, of which
vLLM's sampler wants all on every rank. So each rank keeps its own ids', and what ranks tell one another are the states
of isologit.parallel, and each rank's greatest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from vllm.distributed import get_tp_group
from vllm.v1.outputs import LogprobsTensors

import isologit
from isologit import parallel

MOST_TOP = 1024  # of larger top-k lists the ranks would send as much as of logits
_MOST_NEAR = 64  # ids of a row that are asked one by one whether they have the token's logprob


class _ToNormalize(NamedTuple):
    """Logits whose logprobs are asked for."""

    logits: Tensor


class OwnLogits:
    """A context in which the model's logits are this rank's alone, and its sampler makes prompt scores of these."""

    def __init__(self, layer: Any, sampler: Any, threads: int, processors: frozenset[int]) -> None:
        self._layer, self._sampler = layer, sampler
        indices = layer.isologit_indices
        self._first, self._count = indices.org_vocab_start_index, indices.num_org_elements
        self._running = {"threads": threads, "processors": processors}
        self._former = sampler.compute_logprobs

    def __enter__(self) -> None:
        self._layer.isologit_gathers = False
        self._sampler.compute_logprobs = _ToNormalize
        self._sampler.gather_logprobs = self.gather_logprobs

    def __exit__(self, *error: object) -> None:
        self._layer.isologit_gathers = True
        self._sampler.compute_logprobs = self._former
        del self._sampler.gather_logprobs

    def gather_logprobs(self, scores: Tensor | _ToNormalize, num_logprobs: int, token_ids: Tensor) -> LogprobsTensors:
        """Of each row the token's score and rank, and the greatest scores: as vLLM's own of gathered ones. A rank is
        the number of ids whose score is at least the token's."""
        normalize = isinstance(scores, _ToNormalize)
        padded = scores.logits if normalize else scores
        own = padded[:, : self._count]
        ids = token_ids[:, None]
        logit = _everyones(self._logit_of(own, ids)).amax(1, keepdim=True)
        top_ids, top = self._top(own, num_logprobs)
        wanted, values = torch.cat([ids, top_ids], 1), torch.cat([logit, top], 1)
        ranks = _everyones((own >= logit).sum(1, keepdim=True)).sum(1)
        if normalize:
            values = self._logprobs(own, wanted)
            ranks += self._equal_below(padded, logit, values[:, :1])
        ranks[values[:, 0].isnan()] = 0
        return LogprobsTensors(wanted.to(torch.int32), values, ranks)

    def _logit_of(self, own: Tensor, ids: Tensor) -> Tensor:
        """-inf of another rank's id."""
        at = ids - self._first
        here = (at >= 0) & (at < self._count)
        return own.gather(1, at.clamp(0, self._count - 1)).masked_fill(~here, -torch.inf)

    def _top(self, own: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Ids [n, k] of the greatest logits of all ranks, and these; of equal ones the lowest ids come first."""
        values, ids = own.topk(min(k, self._count), dim=1)
        none = k - values.shape[1]  # sorted behind all ids
        values = _everyones(torch.nn.functional.pad(values, (0, none), value=-torch.inf))
        ids = _everyones(torch.nn.functional.pad(ids + self._first, (0, none), value=2**31 - 1))
        by_id = ids.argsort(1)
        order = by_id.gather(1, values.gather(1, by_id).argsort(dim=1, descending=True, stable=True))[:, :k]
        return ids.gather(1, order), values.gather(1, order)

    def _logprobs(self, own: Tensor, ids: Tensor) -> Tensor:
        place = {"group": get_tp_group().cpu_group, "first_id": self._first, "vocab_size": self._layer.org_vocab_size}
        return parallel.logprobs_of_logits(own, ids, **place, **self._running)

    def _equal_below(self, padded: Tensor, logit: Tensor, logprob: Tensor) -> Tensor:
        """[n]: how many logits are less than the token's and have its logprob all the same. Those within one spacing of
        f32 at the logprob may: few, but in a distribution that is nearly flat, whose logits are gathered after all."""
        own = padded[:, : self._count]
        size = logprob.abs()
        spacing = torch.nextafter(size, torch.full_like(size, torch.inf)).double() - size.double()
        least = torch.nextafter((logit.double() - 2 * spacing).float(), torch.full_like(logit, -torch.inf))
        near = (own < logit) & (own >= least)
        count = near.sum(1, keepdim=True)
        most = int(_everyones(count).max())
        if most == 0:
            return count[:, 0]
        if most > _MOST_NEAR:
            padded[:, self._count :] = -torch.inf
            whole = _everyones(padded)
            return ((whole < logit) & (isologit.log_softmax(whole, **self._running) == logprob)).sum(1)
        rows, at = near.nonzero(as_tuple=True)
        ids = torch.full((len(own), most), -100)
        ids[rows, _places(rows, count[:, 0])] = at + self._first
        ids = _everyones(ids)
        return ((self._logprobs(own, ids) == logprob) & (ids >= 0)).sum(1)


def _everyones(own: Tensor) -> Tensor:
    """[n, k] of each rank, side by side. Over gloo, since vLLM's memory shared by ranks carries no integers."""
    group = get_tp_group().cpu_group
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own.contiguous(), group=group)
    return torch.cat(parts, 1)


def _places(rows: Tensor, counts: Tensor) -> Tensor:
    """Of each of the sorted row numbers its place among those of its row."""
    return torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]


def _is_part(own: Tensor, whole: Tensor, indices: Any) -> bool:
    """Of at least one id, and of original ones alone."""
    part = slice(indices.org_vocab_start_index, indices.org_vocab_end_index)
    some = indices.num_org_elements > 0 and indices.num_added_elements == 0
    return some and torch.equal(own[:, : indices.num_org_elements], whole[:, part])


@torch.inference_mode()
def can_keep(layer: Any, compute_logits: Callable[[Tensor], Tensor], hidden: Tensor) -> bool:
    """Whether a model's logits of this rank's ids are a part of all: it may do more with them than its layer. The same
    on all ranks."""
    whole = compute_logits(hidden)
    layer.isologit_gathers = False
    try:
        own = compute_logits(hidden)
    except Exception:  # what it does may want all ids
        own = None
    finally:
        layer.isologit_gathers = True
    on_all = torch.tensor([int(own is not None and _is_part(own, whole, layer.isologit_indices))])
    dist.all_reduce(on_all, dist.ReduceOp.MIN, group=get_tp_group().cpu_group)
    return bool(on_all)
