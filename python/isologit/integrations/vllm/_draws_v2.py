"""The same draws in vLLM's V2 model runner, whose sampler knows its requests by slots.

The runner needs Triton. It has run on the CPU, in Triton's interpreter.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from isologit.integrations.vllm import _draws, _requests

_REPLACED = ("add_request", "_sample_random")
_WARM_UP = ("_warmup_", "_v2_mixed_warmup")  # how the names of vLLM's own requests begin


class ContractDraws:
    """In the place of the draws and cuts of one runner's sampler, and of what accepts drafts, if there are any: one is
    accepted if it is the token that is drawn at its position (see _draws_ahead)."""

    def __init__(self, runner: Any, threads: int, processors: frozenset[int]) -> None:
        sampler, rejection = runner.sampler, runner.rejection_sampler
        kinds = [f"{type(one).__module__}.{type(one).__name__}" for one in (sampler, rejection)]
        known = type(sampler) is Sampler and not any(name in vars(sampler) for name in _REPLACED)
        if not known or type(rejection) not in (RejectionSampler, type(None)):
            raise ValueError(
                f"isologit: the sampler is {kinds[0]} and drafts are accepted by {kinds[1]}; expected vLLM's own. "
                'Switch the other change off, or set "draws": "engine" in additional_config["isologit"]'
            )
        self._sampler, self._names = sampler, runner.req_states.index_to_req_id
        self._add_request, self._steps = sampler.add_request, getattr(rejection, "num_speculative_steps", 0)
        self._on = {"threads": threads, "processors": processors}
        count = sampler.sampling_states.max_num_reqs
        # Of each slot; where vLLM warms its sampler up, draws without cuts.
        self._slots = _draws.Rows(
            seed=torch.zeros(count, dtype=torch.int64),
            sequence_id=torch.zeros(count, dtype=torch.int64),
            min_p=torch.zeros(count),
            top_k=torch.zeros(count, dtype=torch.int64),
            top_p=torch.ones(count),
        )
        sampler.add_request, sampler._sample_random = self.add_request, self.sample_random
        sampler.sampling_states.apply_min_p = lambda *args: None
        if rejection is not None:
            rejection._verify = self.verify

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        self._add_request(req_idx, sampling_params)
        name = self._names[req_idx]
        if name.startswith(_WARM_UP) and not _requests.is_numbered(sampling_params):
            return  # nobody sees what it draws
        row = _draws.Rows.of([sampling_params], [name])
        for name, values in vars(self._slots).items():
            values[req_idx] = getattr(row, name)[0]

    def sample_random(
        self, processed_logits, expanded_idx_mapping, idx_mapping_np, pos, top_k, top_p, use_fused_sampler
    ) -> tuple[Tensor, Tensor]:
        """Of each row, after grammar, penalties and temperature: what is drawn, and what the cuts leave of it."""
        slots = expanded_idx_mapping.long().cpu()
        rows = self._slots[slots]
        drawn = rows.draw(processed_logits, pos + 1, **self._on)
        greedy = self._sampler.sampling_states.temperature.np[slots.numpy()] == 0
        if greedy.any():
            greedy = torch.from_numpy(greedy).to(drawn.device)
            drawn = torch.where(greedy, processed_logits.argmax(-1), drawn)
        return drawn, rows.cut(processed_logits, **self._on)

    def verify(
        self, logits, draft_logits, draft_sampled, pos, cu_num_logits, idx_mapping, idx_mapping_np,
        expanded_idx_mapping, expanded_local_pos, seq_lens_upper_bound_np, verify_draft_sampled,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """What the cuts leave of each row; of each request its tokens [steps + 1], and how many of them there are."""
        drawn, left = self._sampler.sample(
            logits, expanded_idx_mapping, idx_mapping, idx_mapping_np, pos, draft_sampled, expanded_local_pos,
            seq_lens_upper_bound_np,
        )  # fmt: skip
        starts = cu_num_logits.tolist()
        sampled = drawn.new_zeros(len(starts) - 1, self._steps + 1).to(draft_sampled.dtype)
        counts = []
        for row, start, end in zip(sampled, starts, starts[1:], strict=False):
            # The token that a row is of, but for a request's first, is what was drafted for the row before.
            own, draft = drawn[start : end - 1], verify_draft_sampled[start + 1 : end]
            tokens = _draws.up_to_the_first_other(own, draft, drawn[end - 1 : end])
            row[: len(tokens)] = tokens
            counts.append(len(tokens))
        return left, sampled, torch.tensor(counts, dtype=torch.int32, device=sampled.device)
