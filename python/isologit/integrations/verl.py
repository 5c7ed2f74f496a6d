"""verl: both of its fused heads, those of use_fused_kernels with any backend, and of its Megatron processor."""

from typing import Any

from torch import Tensor

from isologit import linear_logprobs
from isologit.integrations._adapter import Adapter, refuse_shards


def fused_linear_for_ppo(
    self: Any, hidden_states: Tensor, vocab_weights: Tensor, input_ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logprobs and entropies, f32, with the shape of input_ids. Rows are not chunked."""
    scored = linear_logprobs(
        hidden_states, vocab_weights, input_ids.long(), temperature=temperature, return_entropy=True
    )
    return scored.logprobs, scored.entropy


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    reduction: str = "none",
    dist_process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """Logprobs (not losses) and entropies [T] of hidden [..., H] and labels, which hold T ids in the same order."""
    refuse_shards(dist_process_group, "dist_process_group")
    if reduction != "none":
        raise NotImplementedError(f"reduction is {reduction!r}; expected 'none', the one that verl asks for")
    rows = hidden.reshape(-1, hidden.shape[-1])
    scored = linear_logprobs(rows, weight, labels.reshape(-1), temperature=temperature, return_entropy=True)
    return scored.logprobs, scored.entropy


adapter = Adapter("verl", FusedLinearForPPO_forward=fused_linear_for_ppo, linear_cross_entropy=linear_cross_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
