"""Megatron Core: an output_processor for GPTModel.forward, which takes the place of its output layer and loss."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from isologit import Scores
from isologit.integrations._ranks import functions_over, has_several_ranks

calls = 0


def in_force() -> bool:
    """Whether it has been called: Megatron is told of it at each forward."""
    return calls > 0


def output_processor(
    *,
    hidden_states: Tensor,
    output_layer: Any,
    output_weight: Tensor | None,
    labels: Tensor | None,
    context: Mapping[str, Any] | None = None,
    config: Any = None,
    **_others: Any,
) -> Scores:
    """isologit.score of the hidden states [s, b, H], for labels [b, s], which nothing shifts: results [b, s].

    GPTModel.forward(..., labels=labels, output_processor=output_processor, output_processor_context=...) returns it.
    context: arguments of isologit.score. Without it: outputs=("logprobs", "entropy"). Over a tensor-parallel group
    they are those of isologit.parallel.score; every rank has all results. With sequence_parallel hidden_states is this
    rank's part of the sequence, and has the gradient of that.
    """
    global calls
    calls += 1
    group = getattr(output_layer, "tp_group", None)
    functions, over = functions_over(group)
    weight = output_layer.weight if output_weight is None else output_weight
    options = {"outputs": ("logprobs", "entropy"), **(context or {})}
    if getattr(config, "use_mup", False):
        options = {"scale": config.mup_output_mult, **options}
    bias = getattr(output_layer, "bias", None)
    if getattr(output_layer, "sequence_parallel", False) and has_several_ranks(group):
        return _of_a_part(hidden_states.transpose(0, 1), weight, labels, bias, group, options)
    return functions.score(hidden_states.transpose(0, 1), weight, labels, bias=bias, **over, **options)


def _of_a_part(
    hidden: Tensor, weight: Tensor, labels: Tensor | None, bias: Tensor | None, group: Any, options: dict[str, Any]
) -> Scores:
    """Of hidden [b, s / ranks, H]: each rank scores its part, as rows of its own, and has the others' results too."""
    from isologit import parallel

    length = hidden.shape[1]
    part = slice(length * dist.get_rank(group), length * (dist.get_rank(group) + 1))
    temperature = options.get("temperature")
    if isinstance(temperature, Tensor) and temperature.ndim == 2:
        options = {**options, "temperature": temperature[:, part]}
    own = None if labels is None else labels[:, part]
    scores = parallel.score(hidden, weight, own, bias=bias, group=group, rows="own", **options)
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
