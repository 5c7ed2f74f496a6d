"""Models that vLLM has no code for and runs by Transformers', with its own linears, norms, gates and attention in it.

What Transformers' modules still compute themselves is the angles of rotary embeddings, the turns by these, and sums of
residuals, which torch rounds once. A gated MLP whose gate vLLM has not made its own is refused by its activation.
"""

import sys
from collections.abc import Callable
from typing import Any

from torch import nn
from vllm.model_executor.models.transformers.fusers.rms_norm import TPAwareNormMixin, TPAwareRMSNorm

from isologit import _hf_body
from isologit.integrations.vllm import _body

FAMILIES = {"olmo2": "Olmo2"}  # by model_type, the prefix of the names of its classes
_COMPUTE_NOTHING = ("Attention", "DecoderLayer", "MLP", "Model")


class _RmsNorm(TPAwareNormMixin, _body.RmsNorm):
    """Over ranks the mixin gathers the parts of a row, of which each rank then keeps its own."""


def changes(name: str, module: nn.Module, model: type, config: Any) -> list[Callable[[], None]]:
    """As _body.changes."""
    cls, family = type(module), FAMILIES[config.model_type]
    if cls is TPAwareRMSNorm:
        return [_body.becomes(module, _RmsNorm)]
    if cls.__module__.startswith("transformers.models.") and cls.__name__.startswith(family):
        part = cls.__name__.removeprefix(family)
        if part == "RotaryEmbedding":
            turning = type(cls.__name__, (cls,), {"forward": _hf_body.angles_of(config, _body.running)})
            return [_body.becomes(module, turning), lambda: _hf_body.turn_by_angles(sys.modules[cls.__module__])]
        if part in _COMPUTE_NOTHING:
            return []
    return _body.changes(name, module, model, config)
