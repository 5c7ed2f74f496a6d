"""miles: the logprobs and the entropy that it makes of its logits."""

from typing import Any

from torch import Tensor

from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import functions_over


def calculate_log_probs_and_entropy(
    logits: Tensor,
    tokens: Tensor,
    tp_group: Any,
    with_entropy: bool = False,
    entropy_requires_grad: bool = True,
    chunk_size: int = -1,
    true_on_policy: bool = False,
    vocab_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logprobs [R, 1], or [R] when it is to be on-policy, where ids from vocab_size on are padding. Not chunked."""
    functions, over = functions_over(tp_group)
    if true_on_policy and vocab_size is not None:
        if over:
            over["vocab_size"] = vocab_size
        else:
            logits = logits[..., :vocab_size]
    logprobs = functions.logprobs_of_logits(logits, tokens if true_on_policy else tokens.reshape(-1, 1), **over)
    if not with_entropy:
        return logprobs, None
    return logprobs, functions.entropy_of_logits(logits if entropy_requires_grad else logits.detach(), **over)


adapter = Adapter("miles", calculate_log_probs_and_entropy=calculate_log_probs_and_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
