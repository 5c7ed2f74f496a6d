"""What is measured of the logprobs of a step, and what must be exactly so where both sides are isologit's."""

from typing import NamedTuple

import torch
from torch import Tensor


class Logprobs(NamedTuple):
    """Of the tokens of a step [N, T], f32, from what the engine says to what the trainer says. Those in the middle are
    isologit's, the right answers for the states that each side's body gave to its head."""

    reported: Tensor
    right_of_rollout: Tensor
    right_of_trainer: Tensor
    trained: Tensor


class Step(NamedTuple):
    """Of one step, over all of its tokens. kl = body_kl + head_kl."""

    reward: float
    kl: float  # of the rollout's distribution to the trainer's
    body_kl: float  # the same with right heads on both sides
    head_kl: float  # the rest
    outside: float  # the share of importance ratios outside [0.9, 1.1]
    largest: float  # difference of a logprob
    different: int  # tokens whose logprobs are not the same bits
    tokens: int


def kl(trainer: Tensor, rollout: Tensor) -> float:
    """KL(rollout | trainer) from logprobs of tokens that the rollout sampled (k3): never negative, and without bias."""
    gap = (trainer - rollout).double()
    return (torch.expm1(gap) - gap).mean().item()


def different(a: Tensor, b: Tensor) -> int:
    return int((a.view(torch.int32) != b.view(torch.int32)).sum())


def measure(logprobs: Logprobs, reward: float) -> Step:
    reported, right_of_rollout, right_of_trainer, trained = logprobs
    ratio = (trained - reported).exp()
    whole, body = kl(trained, reported), kl(right_of_trainer, right_of_rollout)
    return Step(
        reward,
        whole,
        body,
        whole - body,
        ((ratio < 0.9) | (ratio > 1.1)).float().mean().item(),
        (trained - reported).abs().max().item(),
        different(trained, reported),
        ratio.numel(),
    )


def check(scope: str, logprobs: Logprobs) -> None:
    """Raises unless heads of isologit's gave the right answers on both sides and, with its bodies, the same ones."""
    if not scope:
        return
    reported, right_of_rollout, right_of_trainer, trained = logprobs
    equal = {
        "those that vLLM reports and the right ones of its states": (reported, right_of_rollout),
        "the trainer's and the right ones of its states": (trained, right_of_trainer),
    }
    if scope == "model":
        equal["the trainer's and those that vLLM reports"] = (trained, reported)
    for what, (a, b) in equal.items():
        if wrong := different(a, b):
            raise RuntimeError(f"scope {scope}: {wrong} of {a.numel()} logprobs differ between {what}; expected none")
