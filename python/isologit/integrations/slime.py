"""slime: the logprobs and the entropy that its Megatron backend makes of its logits."""

from typing import Any

from torch import Tensor

from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import functions_over, refuse_shards


def calculate_log_probs_and_entropy(
    logits: Tensor,
    tokens: Tensor,
    tp_group: Any,
    with_entropy: bool = False,
    chunk_size: int = -1,
    log_prob_keep_mask: Tensor | None = None,
    with_entropy_grad: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Logprobs [T, 1] over what the mask [T, V] keeps and the token itself; the entropy [T] of all. Not chunked."""
    functions, over = functions_over(tp_group)
    ids, kept = tokens.reshape(-1, 1), logits
    if log_prob_keep_mask is not None:
        refuse_shards(tp_group, "log_prob_keep_mask is given, and tp_group")
        kept = logits.masked_fill(~log_prob_keep_mask.scatter(1, ids, True), float("-inf"))
    logprobs = functions.logprobs_of_logits(kept, ids, **over)
    if not with_entropy:
        return logprobs, None
    return logprobs, functions.entropy_of_logits(logits if with_entropy_grad else logits.detach(), **over)


adapter = Adapter("slime", calculate_log_probs_and_entropy=calculate_log_probs_and_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
