"""Blocks of one process that lie on several devices: each makes the logits of its rows, by the torch backend, and
results are made of them where hidden is. Without gradients."""

from typing import Any

from torch import Tensor, is_grad_enabled

from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, Samples
from isologit._score import Results, ScoreArgs
from isologit.parallel._exchange import ALONE, Exchange
from isologit.parallel._shard import Local, facts_of_shard, place
from isologit.torch_backend import running
from isologit.torch_backend.blocks import Spread


def are_several(own: Local, hidden: Any) -> bool:
    """Whether the rows are all in this process and some tensor is not on the CPU."""
    tensors = (hidden, *own.weights, *own.biases)
    return own.group is ALONE and any(isinstance(x, Tensor) and not x.is_cpu for x in tensors)


def head_of(own: Local, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """The first block's weight and bias; where there are several devices, no row of it and no bias, where hidden is."""
    weight, bias = own.weights[0].detach(), own.biases[0]
    if are_several(own, hidden):
        return weight[:0].to(hidden.device), None
    return weight, None if bias is None else bias.detach()


def score(exchange: Exchange, args: ScoreArgs, own: Local) -> Results:
    args = args._replace(head=_spread(exchange, args.head, own))
    return Results(*running.run("score", (*args.flat(), "fast", None), _never))


def sample(exchange: Exchange, args: SampleArgs, own: Local) -> Samples:
    args = args._replace(head=_spread(exchange, args.head, own))
    return Samples(*running.run("sample", args.flat(), _never))


def refuse(own: Local, hidden: Tensor) -> None:
    """What only blocks on the CPU have."""
    leaves = (hidden, *own.leaves)
    if own.lora_a is not None:
        raise NotImplementedError(
            "lora is given, and the blocks are not all on the CPU; expected blocks on the CPU, or None"
        )
    if is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves):
        raise NotImplementedError(
            "hidden, weight or bias requires a gradient, and the blocks are not all on the CPU; expected blocks on the "
            "CPU, or a call within torch.no_grad()"
        )


def _spread(exchange: Exchange, head: HeadArgs, own: Local) -> HeadArgs:
    everyone = exchange.agree(**facts_of_shard(own.rows, own.first_id, head.vocab_size))
    shards = place(exchange, everyone, head.vocab_size).of_blocks([len(weight) for weight in own.weights])
    heads = []
    for weight, bias, shard in zip(own.weights, own.biases, shards, strict=True):
        there = head._replace(hidden=head.hidden[:0].to(weight.device))
        detached = None if bias is None else bias.detach()
        one = there.with_weight(weight.detach(), detached, shard.count, None, None)
        if shard.count:
            heads.append(one)
    return head._replace(weight=Spread(heads), bias=None)


def _never(*_: Any) -> Any:
    raise AssertionError("the torch backend has these operators")
