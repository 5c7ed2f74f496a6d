"""In the place of Liger Kernel's fused linear cross entropy."""

from torch import Tensor, nn

from isologit import _mean_loss
from isologit._functional import linear_logprobs


def fused_linear_cross_entropy(
    _input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    lse_square_scale: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float | None = None,
) -> Tensor:
    """The cross entropy of target [N] from hidden states [N, H]; f32.

    "mean" is minus the sum of the f32 logprobs over their number, rounded once; "sum" the same without the number;
    "none" gives one loss a row. Rows with ignore_index count for nothing; a mean of no rows is NaN.
    """
    if lse_square_scale != 0.0 or label_smoothing != 0.0:
        raise NotImplementedError(
            f"lse_square_scale is {lse_square_scale}, label_smoothing is {label_smoothing}; expected 0"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")
    logprobs = linear_logprobs(_input, weight, target, bias=bias, ignore_index=ignore_index, softcap=softcap).logprobs
    if reduction == "none":
        return 0.0 - logprobs  # a loss of zero is +0
    return _mean_loss.mean_loss(logprobs.reshape(-1), target.reshape(-1), ignore_index, reduction == "mean")


class LigerFusedLinearCrossEntropyLoss(nn.Module):
    """Called as loss(lin_weight, hidden, target, bias)."""

    def __init__(
        self,
        ignore_index: int = -100,
        lse_square_scale: float = 0.0,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.lse_square_scale = lse_square_scale
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.softcap = softcap

    def forward(self, lin_weight: Tensor, _input: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
        return fused_linear_cross_entropy(
            _input,
            lin_weight,
            target,
            bias,
            self.ignore_index,
            self.lse_square_scale,
            self.label_smoothing,
            self.reduction,
            self.softcap,
        )
