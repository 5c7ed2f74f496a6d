"""Where in the vocabulary a rank's rows of the weight lie."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, is_grad_enabled

from isologit import _numbers
from isologit._inputs import Lora
from isologit.parallel._exchange import Exchange


class Local(NamedTuple):
    """A rank's rows, in one block or several; first_ids (of each block) and vocab_size as far as they are known. The
    low-rank addition is lora_scale times rows of b, a block's each, times an a that all have."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    lora_bs: list[Tensor | None]
    first_ids: list[int] | None
    vocab_size: int | None
    group: Any
    lora_a: Tensor | None = None
    lora_scale: float = 0.0

    @property
    def rows(self) -> int:
        return sum(weight.shape[0] for weight in self.weights)

    @property
    def leaves(self) -> tuple[Tensor | None, ...]:
        """What has a gradient beside hidden: weights, biases, a and rows of b."""
        return (*self.weights, *self.biases, self.lora_a, *self.lora_bs)

    def lora_of(self, block: int) -> Lora | None:
        if self.lora_a is None:
            return None
        b = self.lora_bs[block]  # whatever was given, which HeadArgs looks at
        return self.lora_a.detach(), b.detach() if isinstance(b, Tensor) else b, self.lora_scale

    def needs_gradients(self, hidden: Any) -> bool:
        leaves = (hidden, *self.leaves)
        return is_grad_enabled() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)


class Shard(NamedTuple):
    """A block's rows are ids [first_id, first_id + count); those after them are padding."""

    first_id: int
    count: int
    vocab_size: int


def local(weight: Any, bias: Any, lora: Any, first_id: int | None, vocab_size: int | None, group: Any) -> Local:
    """Of a tensor, a list of tensors, a DTensor, or a module that says by `shard_indices` which ids its `weight` holds,
    as vLLM's do. bias, and b of lora, are as weight is."""
    if lora is None:
        return _of_kind(weight)(weight, bias, None, first_id, vocab_size, group)
    if not isinstance(lora, (tuple, list)) or len(lora) != 3:
        raise ValueError(f"lora is a {type(lora).__name__}; expected (a, b, scale): a [r, H], b [v, r], a number")
    a, b, scale = lora
    if not isinstance(a, Tensor) or hasattr(a, "device_mesh"):
        raise TypeError(f"lora a is a {type(a).__name__}; expected a plain tensor [r, H], the same on all ranks")
    if b is None:
        raise TypeError("lora b is None; expected [v, r], of this rank's rows, as weight is")
    own = _of_kind(weight)(weight, bias, b, first_id, vocab_size, group)
    return own._replace(lora_a=a, lora_scale=_numbers.f64(scale, "lora scale"))


def _of_kind(weight: Any) -> Callable[..., Local]:
    if isinstance(weight, (list, tuple)):
        return _of_blocks
    if not isinstance(weight, Tensor):
        return _of_module
    return _of_dtensor if hasattr(weight, "device_mesh") else _of_tensor


def _of_tensor(weight: Any, bias: Any, b: Any, first_id: int | None, vocab_size: int | None, group: Any) -> Local:
    for name, beside in (("bias", bias), ("lora b", b)):
        if hasattr(beside, "device_mesh"):
            raise ValueError(f"{name} is a DTensor and weight is not; expected both or none to be")
    if getattr(weight, "tensor_model_parallel", False) and getattr(weight, "partition_dim", 0) != 0:
        raise NotImplementedError(
            f"weight is split on its dimension {weight.partition_dim} (partition_dim), that of H; expected rows of the "
            "vocabulary: partition_dim 0"
        )
    return Local([weight], [bias], [b], first_ids_of([weight], first_id), vocab_size, group)


def _of_blocks(weights: Any, bias: Any, b: Any, first_id: int | None, vocab_size: int | None, group: Any) -> Local:
    """Of blocks whose rows follow one another."""
    if not weights:
        raise ValueError("weight is a list of no blocks; expected at least one, which may be without rows")
    for place, weight in enumerate(weights):
        if not isinstance(weight, Tensor) or hasattr(weight, "device_mesh"):
            raise TypeError(f"weight[{place}] is a {type(weight).__name__}; expected a plain tensor")
        if weight.ndim != 2 or weight.shape[1:] != weights[0].shape[1:]:
            raise ValueError(
                f"weight[{place}] is {list(weight.shape)} and weight[0] {list(weights[0].shape)}; expected [v, H] of "
                "one H: blocks hold rows of the vocabulary"
            )
    beside = [_plain_of_each(given, name, weights) for given, name in ((bias, "bias"), (b, "lora b"))]
    return Local(list(weights), *beside, first_ids_of(weights, first_id), vocab_size, group)


def _plain_of_each(given: Any, name: str, weights: Any) -> list[Any]:
    found = of_each(given, name, weights)
    for place, one in enumerate(found):
        if (one is None) != (found[0] is None) or hasattr(one, "device_mesh"):
            raise TypeError(
                f"{name}[{place}] is a {type(one).__name__} and {name}[0] a {type(found[0]).__name__}; expected plain "
                "tensors, or None for all"
            )
    return found


def first_ids_of(blocks: Any, first_id: int | None) -> list[int] | None:
    """Of blocks that follow one another."""
    if first_id is None:
        return None
    return list(itertools.accumulate((len(block) for block in blocks[:-1]), initial=first_id))


def of_each(given: Any, name: str, weights: Any) -> list[Any]:
    """What is given beside blocks of the weight: as many, or None."""
    if given is None:
        return [None] * len(weights)
    if not isinstance(given, (list, tuple)) or len(given) != len(weights):
        what = f"{len(given)} blocks" if isinstance(given, (list, tuple)) else f"a {type(given).__name__}"
        raise ValueError(f"{name} is {what} and weight {len(weights)} blocks; expected as many, or None")
    return list(given)


def _of_module(module: Any, bias: Any, b: Any, first_id: int | None, vocab_size: int | None, group: Any) -> Local:
    indices = getattr(module, "shard_indices", None)
    if indices is None or not isinstance(getattr(module, "weight", None), Tensor):
        raise TypeError(
            f"weight is a {type(module).__name__}; expected a tensor, a DTensor, or a module with weight and "
            "shard_indices"
        )
    if first_id is not None:
        raise ValueError(f"first_id is {first_id} and weight is a module; expected None: its shard_indices say that")
    parts = [(indices.org_vocab_start_index, indices.org_vocab_end_index, 0)]  # first and last id, and where they lie
    if module.num_embeddings > module.org_vocab_size:  # ids that were added lie behind the original ones' padding
        at = indices.padded_org_vocab_end_index - indices.padded_org_vocab_start_index
        parts.append((indices.added_vocab_start_index, indices.added_vocab_end_index, at))
    own = [slice(at, at + last - first) for first, last, at in parts]
    beside = ([None if one is None else one[rows] for rows in own] for one in (bias, b))
    size = module.num_embeddings if vocab_size is None else vocab_size
    return Local([module.weight[rows] for rows in own], *beside, [first for first, *_ in parts], size, group)


def _of_dtensor(weight: Any, bias: Any, b: Any, first_id: int | None, vocab_size: int | None, group: Any) -> Local:
    if first_id is not None:
        raise ValueError(
            f"first_id is {first_id} and weight is a DTensor; expected None: its layout says where it lies"
        )
    mesh, placements = weight.device_mesh, weight.placements
    sharded = [dim for dim, placement in enumerate(placements) if not placement.is_replicate()]
    if len(sharded) != 1 or not placements[sharded[0]].is_shard(0) or "Strided" in repr(placements[sharded[0]]):
        raise NotImplementedError(
            f"weight is a DTensor {list(weight.shape)} with placements {tuple(map(repr, placements))} over a mesh of "
            f"{list(mesh.shape)}; expected Shard(0) over one dimension of the mesh and Replicate over the others: "
            "weight.redistribute(placements=...) makes that"
        )
    found = mesh.get_group(sharded[0])
    if group is not None and dist.get_process_group_ranks(group) != dist.get_process_group_ranks(found):
        raise ValueError("group is not that of the DTensor's mesh; expected None, or that one")
    for name, beside in (("bias", bias), ("lora b", b)):
        if beside is not None and getattr(beside, "placements", None) != placements:
            raise ValueError(f"{name} is not sharded as weight is; expected a DTensor with its placements")
    own = ([None if one is None else one.to_local()] for one in (bias, b))
    rows = weight.shape[0]
    chunk = -(-rows // mesh.size(sharded[0]))
    start = min(mesh.get_local_rank(sharded[0]) * chunk, rows)
    return Local([weight.to_local()], *own, [start], rows if vocab_size is None else vocab_size, found)


def facts_of_shard(rows: list[int], first_ids: list[int] | None, vocab_size: int) -> dict[str, Any]:
    """rows: of each block."""
    return {
        "vocab_size": vocab_size,
        "first_id is given": first_ids is not None,
        "own_rows": rows,
        "own_first_ids": first_ids,
    }


def facts_of_blocks(own: Local, vocab_size: int) -> dict[str, Any]:
    return facts_of_shard([len(weight) for weight in own.weights], own.first_ids, vocab_size)


def place(exchange: Exchange, everyone: list[dict[str, Any]], vocab_size: int) -> list[Shard]:
    """This rank's blocks, after it was checked that together all are the vocabulary, every id once.

    Of each rank own_rows and own_first_ids; where that is None for all, the ranks' rows follow one another. Rows past
    the vocabulary are padding.
    """
    before, shards = 0, []
    for rank, facts in enumerate(everyone):
        for block, rows in enumerate(facts["own_rows"]):
            start = before if facts["own_first_ids"] is None else facts["own_first_ids"][block]
            if start < 0:
                exchange.fail(f"first_id is {start} on rank {rank}; expected 0 or more")
            before += rows
            start = min(start, vocab_size)
            shards.append((rank, Shard(start, min(rows, vocab_size - start), vocab_size)))
    at = 0
    for rank, shard in sorted(shards, key=lambda one: one[1][:2]):
        if shard.count == 0:
            continue
        if shard.first_id != at:
            exchange.fail(
                f"rank {rank} has ids [{shard.first_id}, {shard.first_id + shard.count}), and the ranks before it "
                f"those up to {at}; expected every id of the vocabulary [0, {vocab_size}) once"
            )
        at += shard.count
    if at != vocab_size or vocab_size < 1:
        exchange.fail(f"the ranks have ids [0, {at}); expected all of the vocabulary [0, {vocab_size})")
    return [shard for rank, shard in shards if rank == exchange.rank]
