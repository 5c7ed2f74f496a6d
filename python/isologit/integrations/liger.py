"""Liger Kernel: its fused linear cross entropy, of the class and of the function that its patched models call."""

from typing import Any

from torch import Tensor

from isologit import losses
from isologit._cross_entropy import linear_cross_entropy
from isologit.integrations._adapter import Adapter

_NOT_MADE = ("ce_weight", "return_z_loss", "use_token_scaling", "return_token_accuracy", "return_predicted_tokens")


def fused_linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ce_weight: Tensor | None = None,
    ignore_index: int = -100,
    lse_square_scale: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float | None = None,
    return_z_loss: bool = False,
    accum_dtype: Any = None,
    use_token_scaling: bool = False,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
    chunk_mem_const: int = 1,
) -> Tensor:
    """isologit.linear_cross_entropy, lse_square_scale being its z_loss. accum_dtype and chunk_mem_const do nothing."""
    asked = (ce_weight, return_z_loss, use_token_scaling, return_token_accuracy, return_predicted_tokens)
    for name, value in zip(_NOT_MADE, asked, strict=True):
        if value is not None and value is not False:
            raise NotImplementedError(f"{name} is given; expected none: isologit's loss does not have it")
    return linear_cross_entropy(
        input,
        weight,
        target,
        bias=bias,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=lse_square_scale,
        softcap=softcap,
    )


def forward(self: Any, lin_weight: Tensor, _input: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    names = ("ignore_index", "lse_square_scale", "label_smoothing", "reduction", "softcap", *_NOT_MADE)
    return fused_linear_cross_entropy(
        _input, lin_weight, target, bias, **{name: getattr(self, name) for name in names}
    )


def fixed_fused_linear_cross_entropy(
    hidden_states: Tensor,
    lm_head_weight: Tensor,
    target: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    final_logit_softcapping: float | None = None,
    accum_dtype: Any = None,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
    **kwargs: Any,
) -> Tensor:
    """The loss of its patched models: over num_items_in_batch, where it is given, and rounded once."""
    options = {"ignore_index": ignore_index, "softcap": final_logit_softcapping, **kwargs}
    options |= {"return_token_accuracy": return_token_accuracy, "return_predicted_tokens": return_predicted_tokens}
    if num_items_in_batch is None:
        return fused_linear_cross_entropy(hidden_states, lm_head_weight, target, **options)
    each = fused_linear_cross_entropy(hidden_states, lm_head_weight, target, reduction="none", **options)
    return losses.mean(each, num_items_in_batch)


adapter = Adapter(
    "liger",
    fixed_fused_linear_cross_entropy=fixed_fused_linear_cross_entropy,
    LigerFusedLinearCrossEntropyLoss_forward=forward,
    liger_fused_linear_cross_entropy=fused_linear_cross_entropy,
)
install, uninstall, in_force = adapter.install, adapter.uninstall, adapter.in_force
