"""The head as a module."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isologit._cross_entropy import linear_cross_entropy
from isologit._inputs import Lora
from isologit._logits import logits
from isologit._sample import Samples, sample
from isologit._score import Scores, linear_logprobs, score


class LMHead(nn.Module):
    """hidden [..., H] to f32 logits [..., V], in the place of nn.Linear(H, V).

    `weight` [V, H] may be another module's parameter (tied). `forward` gives the logits without the transforms, since
    models apply theirs after the head; `logprobs` applies them. Rows from `vocab_size` on are padding: no logits.
    `lora` is a low-rank addition (a, b, scale), of the parameters of an adapter: everything has it, and it trains.
    """

    # What forward does in the place of logits, while a model of Transformers is called with labels.
    instead: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None = None,
        *,
        softcap: float | None = None,
        scale: float | None = None,
        divide: float | None = None,
        transform_order: str = "softcap_first",
        vocab_size: int | None = None,
        gradients: str = "fast",
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(weight, Tensor):
            raise TypeError(f"weight is a {type(weight).__name__}; expected a tensor [V, H]; functions take others")
        if weight.dim() != 2:
            raise ValueError(f"weight: shape is {list(weight.shape)}; expected [V, H]")
        self.weight = weight
        self.register_parameter("bias", bias)
        self.softcap = softcap
        self.scale = scale
        self.divide = divide
        self.transform_order = transform_order
        self.vocab_size = vocab_size
        self.gradients = gradients
        self.lora = lora

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.plain_logits(hidden) if self.instead is None else self.instead(hidden)

    def plain_logits(self, hidden: Tensor) -> Tensor:
        """What forward gives, unless it does something else instead."""
        own = {"bias": self.bias, "vocab_size": self.vocab_size, "lora": self.lora, "gradients": self.gradients}
        return logits(hidden, self.weight, dtype=torch.float32, **own)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        transforms = {"softcap": self.softcap, "scale": self.scale, "divide": self.divide}
        own = {"bias": self.bias, **transforms, "transform_order": self.transform_order}
        return {**own, "vocab_size": self.vocab_size, "lora": self.lora, **options}

    def _trained(self, options: dict[str, Any]) -> dict[str, Any]:
        return self._options({"gradients": self.gradients, **options})

    def logprobs(self, hidden: Tensor, token_ids: Tensor, **options: Any) -> Scores:
        """isologit.linear_logprobs with the weight, bias and transforms of this head."""
        return linear_logprobs(hidden, self.weight, token_ids, **self._trained(options))

    def score(self, hidden: Tensor, token_ids: Tensor | None = None, **options: Any) -> Scores:
        """isologit.score with the weight, bias and transforms of this head."""
        return score(hidden, self.weight, token_ids, **self._trained(options))

    def cross_entropy(self, hidden: Tensor, target: Tensor, **options: Any) -> Tensor:
        """isologit.linear_cross_entropy with the weight, bias and transforms of this head."""
        return linear_cross_entropy(hidden, self.weight, target, **self._trained(options))

    def sample(self, hidden: Tensor, **options: Any) -> Samples:
        """isologit.sample with the weight, bias and transforms of this head."""
        return sample(hidden, self.weight, **self._options(options))

    def extra_repr(self) -> str:
        given = {"softcap": self.softcap, "scale": self.scale, "divide": self.divide, "vocab_size": self.vocab_size}
        if self.transform_order != "softcap_first":
            given["transform_order"] = self.transform_order
        if self.lora is not None:
            given["lora"] = self.lora[0].shape[0]
        parts = [
            f"in_features={self.in_features}",
            f"out_features={self.out_features}",
            f"bias={self.bias is not None}",
        ]
        return ", ".join(parts + [f"{name}={value}" for name, value in given.items() if value is not None])
