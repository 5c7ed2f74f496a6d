"""The last layer of a language model with one right answer.

`score` takes numpy arrays. `linear_logprobs`, `logits`, `sample` and the modules `nn`, `hf`, `ops` and `integrations`
take torch tensors; torch is imported when one of them is first used. What the results are is defined in CONTRACT.md.
"""

import importlib
from typing import Any

from isologit._native import Report, kernels, version

__version__ = version()

__all__ = [
    "LogprobsOutput",
    "Report",
    "SampleOutput",
    "Scores",
    "hf",
    "integrations",
    "kernels",
    "linear_logprobs",
    "logits",
    "nn",
    "ops",
    "sample",
    "score",
    "version",
]

_FOUND_IN = {
    "score": "isologit._arrays",
    "Scores": "isologit._arrays",
    "linear_logprobs": "isologit._functional",
    "logits": "isologit._functional",
    "LogprobsOutput": "isologit._functional",
    "sample": "isologit._sample",
    "SampleOutput": "isologit._sample",
}
_MODULES = ("hf", "integrations", "nn", "ops")


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        value = getattr(importlib.import_module(_FOUND_IN[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"isologit.{name}")
    else:
        raise AttributeError(f"module 'isologit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
