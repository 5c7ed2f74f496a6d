"""Megatron Core: an output_processor for GPTModel.forward, which takes the place of its output layer and loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isologit import Scores, score
from isologit.integrations._adapter import refuse_shards

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
    context: arguments of isologit.score. Without it: outputs=("logprobs", "entropy").
    """
    global calls
    calls += 1
    refuse_shards(getattr(output_layer, "tp_group", None), "the output layer's tp_group")
    weight = output_layer.weight if output_weight is None else output_weight
    options = {"outputs": ("logprobs", "entropy"), **(context or {})}
    if getattr(config, "use_mup", False):
        options = {"scale": config.mup_output_mult, **options}
    bias = getattr(output_layer, "bias", None)
    return score(hidden_states.transpose(0, 1), weight, labels, bias=bias, **options)
