"""The same in vLLM's V2 model runner, whose log_softmax is one function of a module, known by name in another.

The runner needs Triton. It has run on the CPU, in Triton's interpreter; logits elsewhere are refused.
"""

from torch import Tensor
from vllm.v1.worker.gpu.sample import logprob, prompt_logprob

import isologit

_MODULES = (logprob, prompt_logprob)
_vllms = logprob.compute_token_logprobs


def put_in_place(threads: int, processors: frozenset[int]) -> None:
    """For all of this process, which has one engine."""
    for module in _MODULES:
        if module.compute_token_logprobs is not _vllms:
            other = module.compute_token_logprobs
            raise ValueError(
                f"isologit: {module.__name__}.compute_token_logprobs is {other.__module__}.{other.__name__}; expected "
                'vLLM\'s own. Switch the other change off, or set "logprobs": "engine" in additional_config["isologit"]'
            )

    def compute_token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
        return isologit.logprobs_of_logits(logits, token_ids, threads=threads, processors=processors)

    for module in _MODULES:
        module.compute_token_logprobs = compute_token_logprobs


def take_back() -> None:
    for module in _MODULES:
        module.compute_token_logprobs = _vllms
