"""OpenRLHF: the logprobs and the entropy that it makes of its logits."""

from torch import Tensor

from isologit import entropy_of_logits, logprobs_of_logits
from isologit.integrations._adapter import Adapter


def log_probs_from_logits(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    return logprobs_of_logits(logits, labels, temperature=temperature)


def compute_entropy(logits: Tensor) -> Tensor:
    return entropy_of_logits(logits)


adapter = Adapter("openrlhf", log_probs_from_logits=log_probs_from_logits, compute_entropy=compute_entropy)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
