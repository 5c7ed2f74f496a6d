"""The head as a module."""

from typing import Any

import torch
from torch import Tensor, nn

from isologit._functional import LogprobsOutput, linear_logprobs, logits


class LMHead(nn.Module):
    """hidden [..., H] to f32 logits [..., V], in the place of nn.Linear(H, V).

    `weight` [V, H] may be another module's parameter (tied). `forward` gives the logits without the transforms, since
    models apply theirs after the head; `logprobs` applies them.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None = None,
        *,
        softcap: float | None = None,
        scale: float | None = None,
        divide: float | None = None,
        vocab_size: int | None = None,
        gradients: str = "fast",
    ) -> None:
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight: shape is {list(weight.shape)}; expected [V, H]")
        self.weight = weight
        self.register_parameter("bias", bias)
        self.softcap = softcap
        self.scale = scale
        self.divide = divide
        self.vocab_size = vocab_size
        self.gradients = gradients

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, hidden: Tensor) -> Tensor:
        return logits(hidden, self.weight, bias=self.bias, dtype=torch.float32, gradients=self.gradients)

    def logprobs(self, hidden: Tensor, token_ids: Tensor, **options: Any) -> LogprobsOutput:
        """linear_logprobs with the weight, bias and transforms of this head."""
        return linear_logprobs(
            hidden,
            self.weight,
            token_ids,
            bias=self.bias,
            softcap=self.softcap,
            scale=self.scale,
            divide=self.divide,
            vocab_size=self.vocab_size,
            **{"gradients": self.gradients, **options},
        )

    def extra_repr(self) -> str:
        given = {"softcap": self.softcap, "scale": self.scale, "divide": self.divide, "vocab_size": self.vocab_size}
        parts = [
            f"in_features={self.in_features}",
            f"out_features={self.out_features}",
            f"bias={self.bias is not None}",
        ]
        return ", ".join(parts + [f"{name}={value}" for name, value in given.items() if value is not None])
