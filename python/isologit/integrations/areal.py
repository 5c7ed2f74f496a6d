"""AReaL: the logprobs and entropies that it gathers from its logits."""

from typing import Any

from torch import Tensor

from isologit import entropy_of_logits, logprobs_of_logits
from isologit.integrations._adapter import Adapter, refuse_shards


def gather_logprobs(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, tp_group: Any = None, chunk_size: int = 1024
) -> Tensor:
    """Rows are not chunked: nothing of the size of the logits is made."""
    refuse_shards(tp_group, "tp_group")
    return logprobs_of_logits(logits, labels, temperature=temperature)


def gather_logprobs_entropy(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, tp_group: Any = None, chunk_size: int = 1024
) -> tuple[Tensor, Tensor]:
    logprobs = gather_logprobs(logits, labels, temperature, tp_group)
    return logprobs, entropy_of_logits(logits, temperature=temperature)


adapter = Adapter("areal", gather_logprobs=gather_logprobs, gather_logprobs_entropy=gather_logprobs_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
