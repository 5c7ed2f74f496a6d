"""In the place of verl's fused linear_cross_entropy."""

from typing import Any

from torch import Tensor

from isologit._score import linear_logprobs


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 1.0,
    reduction: str = "none",
    dist_process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """(logprobs, entropy), f32 with the shape of labels."""
    if reduction != "none":
        raise NotImplementedError(f"reduction is {reduction!r}; expected 'none'")
    if dist_process_group is not None:
        raise NotImplementedError(
            "dist_process_group is given; expected None: a weight that is split over ranks is not "
            "supported from Python yet"
        )
    scored = linear_logprobs(hidden, weight, labels, temperature=temperature, return_entropy=True)
    return scored.logprobs, scored.entropy
