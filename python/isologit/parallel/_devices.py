"""Blocks of one process that lie on several devices: each makes the logits of its rows, by the torch backend, and
results are made of them where hidden is. Gradients are made on the CPU."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from isologit._inputs import HeadArgs
from isologit._sample import SampleArgs, Samples
from isologit._score import Results, ScoreArgs, Scores
from isologit.parallel._exchange import ALONE, Exchange
from isologit.parallel._shard import Local, facts_of_blocks, place
from isologit.torch_backend import running
from isologit.torch_backend.blocks import Spread


def are_several(own: Local, hidden: Any) -> bool:
    """Whether the rows are all in this process and some tensor is not on the CPU."""
    return own.group is ALONE and _are_elsewhere(own, hidden)


def _are_elsewhere(own: Local, hidden: Any) -> bool:
    return any(isinstance(x, Tensor) and not x.is_cpu for x in (hidden, *own.weights, *own.biases))


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


def refuse_lora(own: Local, hidden: Any) -> None:
    if own.lora_a is not None and _are_elsewhere(own, hidden):
        raise NotImplementedError(
            "lora is given, and hidden and the rows of the weight are not all on the CPU; expected that, or None"
        )


def of_copies(score: Callable[..., Scores], own: Local, hidden: Tensor, token_ids: Any, **options: Any) -> Scores:
    """Where there are gradients: the core's, of copies on the CPU."""
    refuse_lora(own, hidden)
    if options["dweight_accumulate"] is not None:
        raise NotImplementedError(
            "dweight_accumulate is given, and the blocks are not all on the CPU; expected None, or blocks on the CPU"
        )
    found = score(
        _copied(hidden),
        _copied(own.weights),
        _copied(token_ids),
        bias=None if own.biases[0] is None else _copied(own.biases),
        group=ALONE,
        **{name: _copied(value) for name, value in options.items()},
    )
    there = {name: value.to(hidden.device) for name, value in found._asdict().items() if value is not None}
    return found._replace(**{**there, "counts": found.counts})


def _copied(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_copied, value))
    return value.cpu() if isinstance(value, Tensor) else value


def _spread(exchange: Exchange, head: HeadArgs, own: Local) -> HeadArgs:
    shards = place(exchange, exchange.agree(**facts_of_blocks(own, head.vocab_size)), head.vocab_size)
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
