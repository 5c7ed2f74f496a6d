"""SkyRL: the backend of its fused head on Megatron, whatever backend its configuration names."""

from typing import Any

from torch import Tensor

from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import functions_over, gradient_of_one_rank


def fused_lm_head_logprob_apply(
    backend: str,
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    vocab_start_index: int,
    vocab_end_index: int,
    chunk_size: int,
    tp_group: Any,
    inference_only: bool,
) -> Tensor:
    """Logprobs [B, S] of target [B, S], which is shifted already, on all ranks, whose gradients SkyRL adds up. It has
    divided the weight by the temperature."""
    if inference_only:
        hidden, weight = hidden.detach(), weight.detach()
    functions, over = functions_over(tp_group)
    if over:
        hidden, over = gradient_of_one_rank(hidden, tp_group), {**over, "first_id": vocab_start_index}
    else:
        over = {"vocab_size": vocab_end_index}
    return functions.linear_logprobs(hidden, weight, target, **over).logprobs


adapter = Adapter("skyrl", _fused_lm_head_logprob_apply=fused_lm_head_logprob_apply)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
