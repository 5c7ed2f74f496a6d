"""SkyRL: the backend of its fused head on Megatron, whatever backend its configuration names."""

from typing import Any

from torch import Tensor

from isologit import linear_logprobs
from isologit.integrations._adapter import Adapter, refuse_shards


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
    """Logprobs [B, S] of target [B, S], which is shifted already. SkyRL has divided the weight by the temperature."""
    refuse_shards(tp_group, "tp_group")
    if inference_only:
        hidden, weight = hidden.detach(), weight.detach()
    return linear_logprobs(hidden, weight, target, vocab_size=vocab_end_index).logprobs


adapter = Adapter("skyrl", _fused_lm_head_logprob_apply=fused_lm_head_logprob_apply)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
