"""NeMo-RL: logprobs from the hidden states of a Megatron model."""

from typing import Any

from torch import Tensor

from isologit import linear_logprobs
from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import refuse_shards


def from_parallel_hidden_states_to_logprobs(
    tensor_parallel_hidden_states: Tensor,
    output_weight_layer: Tensor,
    runtime_gather_output: bool,
    target: Tensor,
    vocab_start_index: int,
    vocab_end_index: int,
    tp_group: Any,
    inference_only: bool = False,
    cp_group: Any = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Hidden [S, B, H] and ids [B, S]: the logprobs [B, S - 1] of each id but the first."""
    refuse_shards(tp_group, "tp_group")
    refuse_shards(cp_group, "cp_group")
    hidden = tensor_parallel_hidden_states[:-1].transpose(0, 1)
    if inference_only:
        hidden, output_weight_layer = hidden.detach(), output_weight_layer.detach()
    return linear_logprobs(hidden, output_weight_layer, target[:, 1:], vocab_size=vocab_end_index).logprobs


adapter = Adapter("nemo_rl", from_parallel_hidden_states_to_logprobs=from_parallel_hidden_states_to_logprobs)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
