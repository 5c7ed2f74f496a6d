"""Tokens drawn by CONTRACT.md 4, in the place of vLLM's cuts and draws.

The engine makes the logits, grammar, penalties and temperature included; min-p, top-k and top-p are then those of the
contract, of the request's own parameters. Rows at temperature 0 vLLM takes from its own argmax.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.sample.sampler import Sampler

import isologit
from isologit.integrations.vllm import _requests


class ContractDraws(torch.nn.Module):
    """In the place of the `topk_topp_sampler` of one runner's sampler."""

    def __init__(self, runner: Any, threads: int, processors: frozenset[int]) -> None:
        super().__init__()
        sampler = runner.sampler
        if type(sampler).sample is not Sampler.sample or type(sampler.topk_topp_sampler) is not TopKTopPSampler:
            kinds = [f"{type(one).__module__}.{type(one).__name__}" for one in (sampler, sampler.topk_topp_sampler)]
            raise ValueError(
                f"isologit: the sampler is {kinds[0]} and draws by {kinds[1]}; expected vLLM's own. Switch the other "
                'change off, or set "draws": "engine" in additional_config["isologit"]'
            )
        self.logprobs_mode = sampler.topk_topp_sampler.logprobs_mode
        self._runner = runner
        self._threads = threads
        self._processors = processors
        sampler.topk_topp_sampler = self
        processors_of_logits = runner.input_batch.logitsprocs
        processors_of_logits.argmax_invariant = [
            one for one in processors_of_logits.argmax_invariant if type(one) is not MinPLogitsProcessor
        ]

    def forward(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        batch = self._runner.input_batch
        if batch.num_reqs != logits.shape[0]:
            raise RuntimeError(
                f"isologit: {logits.shape[0]} rows of logits for {batch.num_reqs} requests; expected one each. Set "
                '"draws": "engine" in additional_config["isologit"]'
            )
        params = [self._runner.requests[name].sampling_params for name in batch.req_ids]
        numbers = [_requests.numbers_of(*one) for one in zip(params, batch.req_ids, strict=True)]
        cuts = {name: values.to(logits.device) for name, values in _cuts(params).items()}
        drawn = isologit.sample_of_logits(
            logits,
            seed=torch.tensor([seed for seed, _ in numbers]).to(logits.device),
            sequence_id=torch.tensor([index for _, index in numbers]).to(logits.device),
            # Where the drawn token will stand: after all that there are.
            position=torch.from_numpy(batch.num_tokens_no_spec[: batch.num_reqs].astype("int64")).to(logits.device),
            threads=self._threads,
            processors=self._processors,
            **cuts,
        )
        return drawn.ids, self._processed(logits, cuts)

    def _processed(self, logits: Tensor, cuts: dict[str, Tensor]) -> Tensor | None:
        """What vLLM's own gives in the modes of processed logprobs."""
        if not self.logprobs_mode.startswith("processed"):
            return None
        if any((values != none).any() for values, none in zip(cuts.values(), (0, 0, 1), strict=True)):
            kept = isologit.cut_mask_of_logits(logits, threads=self._threads, processors=self._processors, **cuts)
            logits = logits.masked_fill(~kept, -torch.inf)
        return logits if self.logprobs_mode == "processed_logits" else Sampler.compute_logprobs(logits)


def _cuts(params: list[SamplingParams]) -> dict[str, Tensor]:
    """Of each row; of greedy ones none, since vLLM resets theirs."""
    return {
        "min_p": torch.tensor([one.min_p for one in params], dtype=torch.float32),
        "top_k": torch.tensor([max(one.top_k, 0) for one in params]),  # -1: all
        "top_p": torch.tensor([one.top_p for one in params], dtype=torch.float32),
    }
