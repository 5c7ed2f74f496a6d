"""The last layer of a language model with one right answer.

`score` takes numpy arrays. `linear_logprobs`, `logits`, `sample` and the modules `nn`, `hf`, `losses`, `ops` and
`integrations` take torch tensors; torch is imported when one of them is first used. What the results are is defined in
CONTRACT.md.
"""

import importlib
from typing import Any

from isologit._native import Report, kernels, version

__version__ = version()

__all__ = [
    "F8Weight",
    "Report",
    "Samples",
    "Scores",
    "audit",
    "capture",
    "cut_mask_of_logits",
    "devices",
    "entropy_of_logits",
    "forward",
    "hf",
    "integrations",
    "kernels",
    "linear_cross_entropy",
    "linear_logprobs",
    "log_softmax",
    "logits",
    "losses",
    "logprobs_of_logits",
    "lse_of_logits",
    "nn",
    "ops",
    "parallel",
    "partial",
    "sample",
    "sample_of_logits",
    "score",
    "testing",
    "version",
]

_FOUND_IN = {
    "F8Weight": "_f8",
    "capture": "_capture",
    "devices": "_devices",
    "score": "_score",
    "linear_logprobs": "_score",
    "Scores": "_score",
    "logits": "_logits",
    "sample": "_sample",
    "Samples": "_sample",
    "linear_cross_entropy": "_cross_entropy",
    "log_softmax": "_of_logits",
    "logprobs_of_logits": "_of_logits",
    "entropy_of_logits": "_of_logits",
    "lse_of_logits": "_of_logits",
    "sample_of_logits": "_sample_of_logits",
    "cut_mask_of_logits": "_sample_of_logits",
}
_MODULES = ("audit", "forward", "hf", "integrations", "losses", "nn", "ops", "parallel", "partial", "testing")


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        value = getattr(importlib.import_module(f"isologit.{_FOUND_IN[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"isologit.{name}")
    else:
        raise AttributeError(f"module 'isologit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
