"""The logprobs that SGLang returns, made from its final f32 logits with one rounding.

What it does before, penalties, grammars, temperature, stays as it is: only its log_softmax is replaced, while the
functions run that make logprobs to be returned.
"""

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.sampler import Sampler
from torch import Tensor
from torch.overrides import TorchFunctionMode

import isologit
from isologit.integrations.sglang import _processors

_REPLACED = (torch.log_softmax, torch.nn.functional.log_softmax)


class _ExactLogSoftmax(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in _REPLACED:
            return _log_softmax(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _log_softmax(logits: Tensor, dim: int, dtype: torch.dtype | None = None, _stacklevel: int = 0) -> Tensor:
    if dim not in (-1, logits.dim() - 1) or logits.dtype != torch.float32 or dtype is not None:
        raise ValueError(f"isologit: log_softmax of {logits.dtype} along {dim}; expected f32 logits along the last one")
    return isologit.log_softmax(logits, processors=_processors.bound())


def exact(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _ExactLogSoftmax():
        return original(*args, **kwargs)


def sampled(
    original: Callable[..., Tensor],
    sampler: Sampler,
    logits_output: Any,
    sampling_info: Any,
    return_logprob: bool,
    *args: Any,
    logprob_logits: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """SGLang would return the logarithm of the probabilities that it draws from, rounded. Given logits for logprobs, as
    it is where a watermark changes those that it draws from, it takes log_softmax of these, after the temperature."""
    if not return_logprob:
        return original(sampler, logits_output, sampling_info, False, *args, logprob_logits=logprob_logits, **kwargs)
    custom = sampling_info.has_custom_logit_processor
    try:
        if logprob_logits is None:
            # Custom processors change logits in place, and may count their calls: once, and then no more.
            if custom:
                sampler._preprocess_logits(logits_output.next_token_logits, sampling_info)
                sampling_info.has_custom_logit_processor = False
            logprob_logits = logits_output.next_token_logits.clone()
        return exact(
            original, sampler, logits_output, sampling_info, True, *args, logprob_logits=logprob_logits, **kwargs
        )
    finally:
        sampling_info.has_custom_logit_processor = custom
