"""What a difference of logprobs is made of, exactly, and what sums it up."""

from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Parts(NamedTuple):
    """Of one token, exact: they add up to reported - trainer. None of the first two where no state was captured."""

    rollout_head: Fraction | None  # reported - right answer of the rollout's state
    body: Fraction | None  # right answer of the rollout's state - that of the trainer's state
    trainer_head: Fraction  # right answer of the trainer's state - trainer's logprob
    unsplit: Fraction  # the first two together
    total: Fraction


def parts(reported: Tensor, rollout_right: Tensor | None, trainer_right: Tensor, trainer: Tensor) -> list[Parts]:
    """Of tokens whose numbers are finite; f64 sums would not be exact where their sizes differ widely."""
    found = []
    for i in range(len(trainer)):
        r, right, t = (Fraction(float(one[i])) for one in (reported, trainer_right, trainer))
        mine = None if rollout_right is None else Fraction(float(rollout_right[i]))
        head, body = (None, None) if mine is None else (r - mine, mine - right)
        found.append(Parts(head, body, right - t, r - right, r - t))
    return found


def measures(reported: Tensor, trainer: Tensor) -> dict[str, float]:
    """Of d = reported - trainer, in f64. ratio: trainer's probability over the rollout's, as in importance weights."""
    d = reported.double() - trainer.double()
    log_ratio = -d
    ratio = log_ratio.exp()
    return {
        "tokens": len(d),
        "mean": float(d.mean()),
        "mean_abs": float(d.abs().mean()),
        "rms": float(d.square().mean().sqrt()),
        "max_abs": float(d.abs().max()),
        "k1": float(d.mean()),
        "k2": float(d.square().mean() / 2),
        "k3": float((torch.expm1(log_ratio) - log_ratio).mean()),
        "ratios_outside_0.8_1.2": float(((ratio < 0.8) | (ratio > 1.2)).double().mean()),
        "ratios_outside_0.9_1.1": float(((ratio < 0.9) | (ratio > 1.1)).double().mean()),
        "reported_above_0": int((reported > 0).sum()),
        "trainer_above_0": int((trainer > 0).sum()),
    }


def sums(of: list[Parts]) -> dict[str, Any]:
    """Signed means of each part, which add up, and means of sizes, which do not."""
    names = ["rollout_head", "body", "trainer_head"] if all(one.body is not None for one in of) else []
    names = names or ["unsplit", "trainer_head"]
    result: dict[str, Any] = {}
    for name in [*names, "total"]:
        values = [getattr(one, name) for one in of]
        result[name] = {
            "sum": str(sum(values, Fraction())),
            "mean": float(sum(values, Fraction()) / len(values)),
            "mean_abs": float(sum(map(abs, values), Fraction()) / len(values)),
            "max_abs": float(max(map(abs, values))),
        }
    return result


def grouped(by: Tensor, edges: list[float], reported: Tensor, trainer: Tensor) -> list[dict[str, float]]:
    """mean |d| of the tokens from each edge up to the next."""
    d = (reported.double() - trainer.double()).abs()
    found = []
    for low, high in zip(edges, edges[1:], strict=False):
        own = (by >= low) & (by < high)
        if bool(own.any()):
            count, mean, most = int(own.sum()), float(d[own].mean()), float(d[own].max())
            found.append({"from": low, "to": high, "tokens": count, "mean_abs": mean, "max_abs": most})
    return found
