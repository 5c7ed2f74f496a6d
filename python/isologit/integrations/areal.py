"""AReaL: the logprobs and entropies that it gathers from its logits."""

from typing import Any

from torch import Tensor

from isologit.integrations._adapter import Adapter
from isologit.integrations._ranks import functions_over


def gather_logprobs(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, tp_group: Any = None, chunk_size: int = 1024
) -> Tensor:
    """Rows are not chunked: nothing of the size of the logits is made."""
    functions, over = functions_over(tp_group)
    return functions.logprobs_of_logits(logits, labels, temperature=temperature, **over)


def gather_logprobs_entropy(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, tp_group: Any = None, chunk_size: int = 1024
) -> tuple[Tensor, Tensor]:
    logprobs = gather_logprobs(logits, labels, temperature, tp_group)
    functions, over = functions_over(tp_group)
    return logprobs, functions.entropy_of_logits(logits, temperature=temperature, **over)


adapter = Adapter("areal", gather_logprobs=gather_logprobs, gather_logprobs_entropy=gather_logprobs_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
