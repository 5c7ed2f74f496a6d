"""Megatron Core: an output_processor for GPTModel.forward, which takes the place of its output layer and loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isologit import Scores
from isologit.integrations._adapter import functions_over, refuse_shards

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
    they are those of isologit.parallel.score; every rank has all results.
    """
    global calls
    calls += 1
    group = getattr(output_layer, "tp_group", None)
    if getattr(output_layer, "sequence_parallel", False):
        refuse_shards(group, "the output layer has sequence_parallel, and its tp_group")
    functions, over = functions_over(group)
    weight = output_layer.weight if output_weight is None else output_weight
    options = {"outputs": ("logprobs", "entropy"), **(context or {})}
    if getattr(config, "use_mup", False):
        options = {"scale": config.mup_output_mult, **options}
    bias = getattr(output_layer, "bias", None)
    return functions.score(hidden_states.transpose(0, 1), weight, labels, bias=bias, **over, **options)
