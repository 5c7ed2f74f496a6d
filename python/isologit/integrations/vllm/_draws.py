"""Tokens drawn by CONTRACT.md 4, in the place of vLLM's cuts and draws.

The engine makes the logits, grammar, penalties and temperature included; min-p, top-k and top-p are then those of the
contract, of the request's own parameters. Rows at temperature 0 vLLM takes from its own argmax.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.sample.sampler import Sampler

import isologit
from isologit.integrations.vllm import _requests


@dataclass(frozen=True)
class Rows:
    """Of each row of logits [N, V], what its draw depends on beside them: tensors [N] on the CPU."""

    seed: Tensor
    sequence_id: Tensor
    min_p: Tensor
    top_k: Tensor
    top_p: Tensor

    @staticmethod
    def of(params: list[SamplingParams], names: list[str]) -> "Rows":
        """Of requests. A greedy one has no cuts, since vLLM resets its."""
        numbers = [_requests.numbers_of(*one) for one in zip(params, names, strict=True)]
        return Rows(
            seed=torch.tensor([seed for seed, _ in numbers], dtype=torch.int64),
            sequence_id=torch.tensor([index for _, index in numbers], dtype=torch.int64),
            min_p=torch.tensor([one.min_p for one in params], dtype=torch.float32),
            top_k=torch.tensor([max(one.top_k, 0) for one in params], dtype=torch.int64),  # -1: all
            top_p=torch.tensor([one.top_p for one in params], dtype=torch.float32),
        )

    def __getitem__(self, rows: Tensor) -> "Rows":
        return Rows(**{name: values[rows] for name, values in vars(self).items()})

    def draw(self, logits: Tensor, position: Tensor, threads: int, processors: frozenset[int]) -> Tensor:
        on_device = {name: values.to(logits.device) for name, values in vars(self).items()}
        position = position.to(logits.device, torch.int64)
        return isologit.sample_of_logits(
            logits, position=position, threads=threads, processors=processors, **on_device
        ).ids

    def cut(self, logits: Tensor, threads: int, processors: frozenset[int]) -> Tensor:
        """The logits, -inf where a draw never takes them."""
        cuts = {"min_p": self.min_p, "top_k": self.top_k, "top_p": self.top_p}
        if all((values == none).all() for values, none in zip(cuts.values(), (0, 0, 1), strict=True)):
            return logits
        cuts = {name: values.to(logits.device) for name, values in cuts.items()}
        kept = isologit.cut_mask_of_logits(logits, threads=threads, processors=processors, **cuts)
        return logits.masked_fill(~kept, -torch.inf)


class ContractDraws(torch.nn.Module):
    """In the place of the `topk_topp_sampler` of one V1 runner's sampler."""

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
        self.on = {"threads": threads, "processors": processors}
        self.position: Tensor | None = None  # where it is not the one after all that a request has
        self._runner = runner
        self._vllms = sampler.topk_topp_sampler
        sampler.topk_topp_sampler = self
        processors_of_logits = runner.input_batch.logitsprocs
        processors_of_logits.argmax_invariant = [
            one for one in processors_of_logits.argmax_invariant if type(one) is not MinPLogitsProcessor
        ]

    def rows(self) -> Rows:
        """Of each request of the batch."""
        batch = self._runner.input_batch
        names = batch.req_ids
        return Rows.of([self._runner.requests[name].sampling_params for name in names], names)

    def forward(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        batch = self._runner.input_batch
        if batch.num_reqs == 0:  # vLLM warms its sampler up, with rows of no request
            return self._vllms(logits, generators, k, p)
        if batch.num_reqs != logits.shape[0]:
            raise RuntimeError(
                f"isologit: {logits.shape[0]} rows of logits for {batch.num_reqs} requests; expected one each. Set "
                '"draws": "engine" in additional_config["isologit"]'
            )
        position, rows = self.position, self.rows()
        if position is None:
            position = torch.from_numpy(batch.num_tokens_no_spec[: batch.num_reqs])
        return rows.draw(logits, position, **self.on), self._processed(logits, rows)

    def _processed(self, logits: Tensor, rows: Rows) -> Tensor | None:
        """What vLLM's own gives in the modes of processed logprobs."""
        if not self.logprobs_mode.startswith("processed"):
            return None
        left = rows.cut(logits, **self.on)
        return left if self.logprobs_mode == "processed_logits" else Sampler.compute_logprobs(left)


def up_to_the_first_other(drawn: Tensor, draft: Tensor, bonus: Tensor) -> Tensor:
    """drawn and draft [n], bonus [1]: what is drawn, until it is not what was drafted; after all of that the bonus."""
    accepted = int((drawn == draft).long().cumprod(0).sum())
    return torch.cat([drawn, bonus.to(drawn.dtype)])[: accepted + 1]
