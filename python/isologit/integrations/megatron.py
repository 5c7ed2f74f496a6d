"""Megatron Core: an output_processor for GPTModel.forward, which takes the place of its output layer and loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isologit import Scores
from isologit.integrations._ranks import functions_over, has_several_ranks, score_of_a_part

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
        return score_of_a_part(hidden_states.transpose(0, 1), weight, labels, group, bias=bias, **options)
    return functions.score(hidden_states.transpose(0, 1), weight, labels, bias=bias, **over, **options)
