"""ROLL: the logprobs and the entropy that its strategies make of their logits."""

from torch import Tensor

from isologit import entropy_of_logits, logprobs_of_logits
from isologit.integrations._adapter import Adapter


def log_probs_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return logprobs_of_logits(logits, labels)


def entropy_from_logits(logits: Tensor) -> Tensor:
    return entropy_of_logits(logits)


adapter = Adapter("roll", log_probs_from_logits=log_probs_from_logits, entropy_from_logits=entropy_from_logits)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
