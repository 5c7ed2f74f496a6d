"""NeMo-RL: logprobs from the hidden states of a Megatron model."""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from isologit import linear_logprobs
from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import has_several_ranks, score_of_a_part


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
    """Hidden [S, B, H] and ids [B, S]: the logprobs [B, S - 1] of each id but the first.

    Over a tensor-parallel group hidden is this rank's part of the sequence, [S / ranks, B, H], and has the gradient of
    that; all ranks have the logprobs. Without sequence_parallel there are no parts, which NeMo-RL's own does not take.
    """
    if has_several_ranks(cp_group):
        raise NotImplementedError(
            f"cp_group has {dist.get_world_size(cp_group)} ranks; expected one: as NeMo-RL's own, this takes no "
            "sequence that is split by context parallelism"
        )
    hidden, weight = tensor_parallel_hidden_states.transpose(0, 1), output_weight_layer
    if inference_only:
        hidden, weight = hidden.detach(), weight.detach()
    if not has_several_ranks(tp_group):
        return linear_logprobs(hidden[:, :-1], weight, target[:, 1:], vocab_size=vocab_end_index).logprobs
    ranks, length = dist.get_world_size(tp_group), target.shape[1]
    if hidden.shape[1] * ranks != length:
        raise NotImplementedError(
            f"hidden states of {hidden.shape[1]} positions on each of {ranks} ranks, and {length} ids; expected a part "
            "of the sequence on each: set sequence_parallel, or a tensor-parallel size of 1"
        )
    following = nn.functional.pad(target[:, 1:], (0, 1), value=-100)
    return score_of_a_part(hidden, weight, following, tp_group, first_id=vocab_start_index).logprobs[:, :-1]


adapter = Adapter("nemo_rl", from_parallel_hidden_states_to_logprobs=from_parallel_hidden_states_to_logprobs)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
