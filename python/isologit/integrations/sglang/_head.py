"""SGLang's product of hidden states and the head's weight, replaced.

All of SGLang's paths to logits lead through `_compute_lm_head`; what comes after it, scales, gathering over ranks,
cutting off padded rows, soft caps, is SGLang's own.
"""

from collections.abc import Callable
from typing import Any

from sglang.srt.layers.logits_processor import LogitsProcessor, should_apply_lm_head_quant_method
from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead
from sglang.srt.utils.common import use_intel_amx_backend
from torch import Tensor, nn

import isologit
from isologit.integrations.sglang import _processors

calls = 0


def logits(
    original: Callable[..., Tensor],
    layer: LogitsProcessor,
    hidden_states: Tensor,
    lm_head: nn.Module,
    embedding_bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """f32 logits of this rank's rows of the weight, padded ones too. The weight is read at each call: updates write
    into it without telling. `out` is a buffer that the caller copies to if it is not used."""
    global calls
    if reason := _reason_against(lm_head, hidden_states):
        raise ValueError(f"isologit: {reason}, or take isologit out of SGLANG_PLUGINS")
    bias = getattr(lm_head, "bias", None) if embedding_bias is None else embedding_bias
    calls += 1
    return isologit.logits(
        hidden_states,
        lm_head.weight.detach(),
        bias=None if bias is None else bias.detach(),
        processors=_processors.bound(),
    )


def _reason_against(lm_head: nn.Module, hidden_states: Tensor) -> str | None:
    method = getattr(lm_head, "quant_method", None)
    if hasattr(lm_head, "set_lora"):
        return "the head has a LoRA adapter; expected none. Leave lm_head out of --lora-target-modules"
    if not hasattr(lm_head, "weight") or should_apply_lm_head_quant_method(lm_head, method):
        return f"the head's quantisation method is {type(method).__name__}; expected an unquantised head. Serve another"
    if use_intel_amx_backend(lm_head):
        return "the head's weight was repacked for AMX; expected [V, H] row by row. Load the model after the plugin"
    if hidden_states.device.type != "cpu":
        return f"hidden states are on {hidden_states.device}; expected the CPU. Serve with --device cpu"
    return None


def leave_unpacked(original: Callable[..., None], method: Any, module: nn.Module) -> None:
    """SGLang repacks weights for AMX, without a change of shape. The head's stays as it is."""
    if isinstance(module, ParallelLMHead):
        module.use_intel_amx_backend = False
    else:
        original(method, module)
