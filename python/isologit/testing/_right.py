"""The right answers, and how far from them a head is."""

from typing import Any

import numpy as np

import isologit
from isologit.testing._arrays import FORMATS, Head, Output, output_of, rounded
from isologit.testing._data import Data, normal


class NotAsked(Exception):
    """Why a property says nothing of this head."""


def accuracy(found: Output, data: Data, gives: str) -> tuple[Output, dict[str, Any]]:
    """The right answer in the type of what was found; its distance in ulps of that type, and from the f32 one."""
    if gives == "logits":
        f32 = isologit.logits(data.hidden, data.weight)
    elif gives == "logprobs":
        f32 = isologit.score(data.hidden, data.weight, data.ids).logprobs
    else:
        f32 = isologit.log_softmax(isologit.logits(data.hidden, data.weight))
    if found.dtype == "f64":
        right = output_of(f32.astype(np.float64))
        figures = ulps(output_of(found.values.astype(np.float32)), output_of(f32))
    elif gives == "logits" and found.dtype != "f32":  # rounded once
        dtype = np.uint16 if found.dtype == "bf16" else np.float16
        right = Output(isologit.logits(data.hidden, data.weight, dtype=dtype).view(np.uint16), found.dtype)
        figures = ulps(found, right)
    else:
        right = _narrowed(f32, found.dtype)
        figures = ulps(found, right)
    error = np.abs(found.values - f32)
    return right, {"results": figures | {"mean error": _finite(error.mean()), "max error": _finite(error.max())}}


def _finite(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def ulps(found: Output, right: Output) -> dict[str, Any]:
    """The share that is right; how many ulps of the right answer they are apart, in the mean and at most."""
    digits, least = FORMATS[right.dtype]
    size = np.abs(right.values)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.maximum(np.floor(np.log2(size)), least)
        apart = np.abs(found.values - right.values) / 2.0 ** (exponent - digits + 1)
    apart = np.where(found.values == right.values, 0.0, np.nan_to_num(apart, nan=np.inf))
    share = float((apart == 0).mean())
    return {"share right": share, "mean ulps": _finite(apart.mean()), "max ulps": _finite(apart.max())}


def _narrowed(values: np.ndarray, dtype: str) -> Output:
    """The f32 right answer, rounded to the type of what was found."""
    if dtype == "bf16":
        return Output((rounded(values, "bfloat16").view(np.uint32) >> 16).astype(np.uint16), "bf16")
    return output_of(values.astype(np.float16 if dtype == "f16" else np.float32))


def gradients(
    head: Head, data: Data, gives: str, *, right: bool = True, rows: np.ndarray | None = None
) -> dict[str, tuple[Output, Output, dict[str, Any]]]:
    """Of hidden and weight: what autograd finds, the right answer, its distance. NotAsked where it finds no way."""
    if not head.is_torch:
        raise NotAsked("of torch")
    import torch

    places = np.arange(len(data.hidden)) if rows is None else rows
    width = None if gives == "logprobs" else len(data.weight)

    of_all = torch.tensor(normal(5, 1 + int(places.max()), width or 1)[places])
    of_all = of_all if width else of_all[:, 0]

    ids = head.array(data.ids)
    hidden, weight = (head.array(one).requires_grad_() for one in (data.hidden, data.weight))
    with torch.enable_grad():
        result = head.raw(hidden, weight, ids)
        if not getattr(result, "requires_grad", False):
            raise NotAsked("no gradient follows from it")
        upstream = of_all.to(result)
        result.backward(upstream)
    found = {name: one.grad for name, one in (("hidden", hidden), ("weight", weight))}
    if any(one is None for one in found.values()):
        missing = [name for name, one in found.items() if one is None]
        raise ValueError(f"no gradient of {' and '.join(missing)}, though the result has one")
    if not right:
        return {name: (output_of(one), output_of(one), {}) for name, one in found.items()}
    expected = _right_gradients(head, data, gives, upstream)
    made = {}
    for name in found:
        pair = output_of(found[name]), output_of(expected[name])
        made[name] = (*pair, ulps(*pair))
    return made


def _right_gradients(head: Head, data: Data, gives: str, upstream: Any) -> dict[str, Any]:
    import torch

    dtype = getattr(torch, head.dtype)
    hidden, weight = (torch.tensor(one).to(dtype).requires_grad_() for one in (data.hidden, data.weight))
    with torch.enable_grad():
        if gives == "logprobs":
            scores = isologit.linear_logprobs(hidden, weight, torch.tensor(data.ids), gradients="exact")
            result = scores.logprobs
        else:
            result = isologit.logits(hidden, weight, gradients="exact")
            result = isologit.log_softmax(result) if gives == "log_softmax" else result
        result.backward(upstream.detach().cpu().float())
    return {"hidden": hidden.grad, "weight": weight.grad}
