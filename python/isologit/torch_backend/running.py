"""Which function makes which operator, and what surrounds each: one device, tested, without autocast."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from isologit import _forward_calls, _numbers, torch_backend
from isologit.torch_backend import backward, given, score, self_test
from isologit.torch_backend.forward import attention, attention_gradients, gates, linears, norms, rotary

_OPERATORS = {
    "score": score.score,
    "logits": score.logits,
    "score_backward": backward.score_backward,
    "score_backward_into": backward.score_backward,
    "logits_backward": backward.logits_backward,
    "logits_backward_into": backward.logits_backward,
    "sample": given.sample,
    "sample_of_logits": given.sample_of_logits,
    "cut_mask_of_logits": given.cut_mask_of_logits,
    "of_logits": given.of_logits,
    "of_logits_backward": given.of_logits_backward,
    "linear": linears.linear,
    "linear_backward": linears.linear_backward,
    "residual": linears.residual,
    "combine": linears.combine,
    "combine_backward": linears.combine_backward,
    "spread": _forward_calls.spread,
    "embedding": _forward_calls.embedding,
    "embedding_backward": linears.embedding_backward,
    "rms_norm": norms.rms_norm,
    "rms_norm_backward": norms.rms_norm_backward,
    "layer_norm": norms.layer_norm,
    "layer_norm_backward": norms.layer_norm_backward,
    "gate": gates.gate,
    "gate_backward": gates.gate_backward,
    "rotary": rotary.rotary,
    "attention": attention.attention,
    "attention_backward": attention_gradients.attention_backward,
}

_OF_HEADS = ("score", "logits", "sample")  # which look at the device once their arguments are what they take


def run(operator: str, arguments: tuple[Any, ...], otherwise: Callable[..., Any]) -> Any:
    """isologit::operator of these arguments, on the device of its tensors."""
    device = torch_backend.device_of(arguments)
    if device is None:
        return otherwise(*arguments)
    with contextlib.ExitStack() as surroundings:
        surroundings.enter_context(torch.no_grad())
        surroundings.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cpu":
            surroundings.enter_context(_numbers.usual_rounding())
        made = _OPERATORS.get(operator)
        if made is None:
            return otherwise(*arguments)
        if operator not in _OF_HEADS:
            self_test.require(device)
        return made(*arguments)
