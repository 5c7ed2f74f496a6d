"""verl: both of its fused heads, those of use_fused_kernels with any backend, and of its Megatron processor."""

from typing import Any

from torch import Tensor

from isologit import linear_logprobs
from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import functions_over, gradient_of_one_rank

_GATHERED = "_GatherFromSequenceParallelRegionBackward"


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
    """Logprobs (not losses) and entropies [T] of hidden [..., H] and labels, which hold T ids in the same order.

    Over a tensor-parallel group all ranks have them. verl's own leaves each rank its part of the gradient of hidden,
    which Megatron adds up where it has gathered a sequence that is split, and nowhere else: it is refused there.
    """
    if reduction != "none":
        raise NotImplementedError(f"reduction is {reduction!r}; expected 'none', the one that verl asks for")
    functions, over = functions_over(dist_process_group)
    if over and hidden.requires_grad:
        if type(hidden.grad_fn).__name__ != _GATHERED:
            raise NotImplementedError(
                "hidden states of several ranks that Megatron has not gathered from a sequence that is split: their "
                "gradient would not be added up over the ranks; set sequence_parallel, or a tensor-parallel size of 1"
            )
        hidden = gradient_of_one_rank(hidden, dist_process_group)
    rows, options = hidden.reshape(-1, hidden.shape[-1]), {"temperature": temperature, "return_entropy": True, **over}
    scored = functions.linear_logprobs(rows, weight, labels.reshape(-1), **options)
    return scored.logprobs, scored.entropy


adapter = Adapter("verl", FusedLinearForPPO_forward=fused_linear_for_ppo, linear_cross_entropy=linear_cross_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
