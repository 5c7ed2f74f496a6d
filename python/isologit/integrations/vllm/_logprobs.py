"""The logprobs that vLLM returns, made from its final f32 logits with one rounding.

What vLLM's sampler does before, penalties, temperature, cuts, stays as it is: only its log_softmax is replaced, on the
sampler object of the engine that the option was given to.
"""

from torch import Tensor
from vllm.v1.sample.sampler import Sampler

import isologit

_REPLACED = ("forward", "sample", "compute_logprobs")


class ExactLogprobs:
    """In the place of `forward`, `sample` and `compute_logprobs` of one sampler."""

    def __init__(self, sampler: Sampler, threads: int, processors: frozenset[int]) -> None:
        for name in _REPLACED:
            if getattr(type(sampler), name) is not getattr(Sampler, name) or name in vars(sampler):
                raise ValueError(
                    f"isologit: the sampler is {type(sampler).__module__}.{type(sampler).__name__}, and its {name} is "
                    'not vLLM\'s own; expected vLLM\'s. Switch the other change off, or set "logprobs": "engine" in '
                    'additional_config["isologit"]'
                )
        self._threads = threads
        self._processors = processors
        self._sampler = sampler
        self._forward = sampler.forward
        self._sample = sampler.sample
        self._asked: str | None = None  # the mode that a call of forward names, in the place of the sampler's own
        # It would take log_softmax itself, in two places.
        if sampler.logprobs_mode == "processed_logprobs":
            sampler.topk_topp_sampler.logprobs_mode = "processed_logits"
        for name in _REPLACED:
            setattr(sampler, name, getattr(self, name))

    def forward(self, logits, sampling_metadata, predict_bonus_token=False, logprobs_mode_override=None):
        self._asked = logprobs_mode_override
        try:
            return self._forward(logits, sampling_metadata, predict_bonus_token, logprobs_mode_override)
        finally:
            self._asked = None

    def sample(self, logits, sampling_metadata, logprobs_mode_override=None):
        mode = logprobs_mode_override or self._asked or self._sampler.logprobs_mode
        if mode != "processed_logprobs":
            return self._sample(logits, sampling_metadata, mode)
        sampled, processed = self._sample(logits, sampling_metadata, "processed_logits")
        wanted = sampling_metadata.max_num_logprobs is not None or sampling_metadata.logprob_token_ids
        return sampled, self._sampler.compute_logprobs(processed) if wanted else None

    def compute_logprobs(self, logits: Tensor) -> Tensor:
        return isologit.log_softmax(logits, threads=self._threads, processors=self._processors)
