"""Two heads to hold to `isologit verify --head`."""

import torch
from torch import Tensor
from torch.nn import functional as F

import isologit


def usual(hidden: Tensor, weight: Tensor, token_ids: Tensor) -> Tensor:
    """bf16 logits, then f32."""
    return F.linear(hidden, weight).float().log_softmax(-1).gather(1, token_ids[:, None])[:, 0]


def right(hidden: Tensor, weight: Tensor, token_ids: Tensor) -> Tensor:
    return isologit.linear_logprobs(hidden, weight, token_ids, gradients="exact").logprobs


class Cached:
    """Makes f32 of the weight once, and does not see that an optimizer writes to it."""

    def __init__(self) -> None:
        self.of: Tensor | None = None

    def __call__(self, hidden: Tensor, weight: Tensor) -> Tensor:
        if self.of is not weight:
            self.of, self.wide = weight, weight.float().contiguous()
        return torch.mm(hidden.float(), self.wide.T)


cached = Cached()
