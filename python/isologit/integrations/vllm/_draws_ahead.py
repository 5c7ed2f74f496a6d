"""Speculative decoding with the contract's draws, in vLLM's V1 runner.

A draw depends on its logits, seed and position alone, so it is made at each drafted position, from the target model's
logits: a draft is accepted if it is the token that is drawn there. What comes out is what would have come out without
drafts, and a draft's own distribution plays no part.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample import rejection_sampler as module
from vllm.v1.sample.rejection_sampler import RejectionSampler

from isologit.integrations.vllm import _draws

_REPLACED = ("apply_sampling_constraints", "rejection_sample")
_vllms = {name: getattr(module, name) for name in _REPLACED}


class DraftsByDraws:
    """In the place of `forward` of one runner's rejection sampler, and of the two functions that it draws by, which are
    the module's: a process has one engine."""

    def __init__(self, runner: Any, draws: _draws.ContractDraws) -> None:
        sampler = runner.rejection_sampler
        others = [name for name in _REPLACED if getattr(module, name) is not _vllms[name]]
        if type(sampler) is not RejectionSampler or others:
            what = ", ".join(others) or f"{type(sampler).__module__}.{type(sampler).__name__}"
            raise ValueError(
                f"isologit: drafts are accepted by another {what}; expected vLLM's own. Switch the other change off, "
                'or set "draws": "engine" in additional_config["isologit"]'
            )
        self._runner, self._draws = runner, draws
        self._forward = sampler.forward
        self._requests: Tensor | None = None  # of the step that is under way, of each drafted row
        self._positions = self._drawn = torch.empty(0)
        sampler.forward = self.forward
        for name in _REPLACED:
            setattr(module, name, getattr(self, name))

    def forward(self, metadata, draft_probs, logits, sampling_metadata):
        if self._runner.input_batch.num_reqs == 0:  # vLLM warms it up
            return self._forward(metadata, draft_probs, logits, sampling_metadata)
        counts = torch.tensor(metadata.num_draft_tokens)
        # Where what is drawn of each row will stand: after the token that the row is of.
        after = self._runner.positions[metadata.logits_indices] + 1
        self._requests = torch.arange(len(counts)).repeat_interleave(counts)
        self._positions = after[metadata.target_logits_indices]
        self._draws.position = after[metadata.bonus_logits_indices]
        try:
            return self._forward(metadata, draft_probs, logits, sampling_metadata)
        finally:
            self._requests = self._draws.position = None

    def apply_sampling_constraints(self, logits, cu_num_draft_tokens, sampling_metadata):
        """What draws may take of the drafts' rows, after their temperatures. (On the CPU vLLM's own divides them by
        memory that it never filled.)"""
        if self._requests is None:
            return _vllms["apply_sampling_constraints"](logits, cu_num_draft_tokens, sampling_metadata)
        self._drawn = logits.argmax(-1)
        if sampling_metadata.all_greedy:
            return logits
        temperature = sampling_metadata.temperature[self._requests.to(logits.device)][:, None]
        logits.div_(torch.where(temperature == 0, 1, temperature))
        rows = self._draws.rows()[self._requests]
        drawn = rows.draw(logits, self._positions, **self._draws.on)
        self._drawn = torch.where(temperature[:, 0] == 0, self._drawn, drawn)
        return rows.cut(logits, **self._draws.on)

    def rejection_sample(
        self, draft_token_ids, num_draft_tokens, max_spec_len, cu_num_draft_tokens, draft_probs, target_logits,
        bonus_token_ids, sampling_metadata, **others,
    ):  # fmt: skip
        if self._requests is None:
            return _vllms["rejection_sample"](
                draft_token_ids, num_draft_tokens, max_spec_len, cu_num_draft_tokens, draft_probs, target_logits,
                bonus_token_ids, sampling_metadata, **others,
            )  # fmt: skip
        drawn = self._drawn.split(num_draft_tokens)
        drafted = draft_token_ids.split(num_draft_tokens)
        out = draft_token_ids.new_full((len(drawn), max_spec_len + 1), module.PLACEHOLDER_TOKEN_ID, dtype=torch.int32)
        for row, own, draft, bonus in zip(out, drawn, drafted, bonus_token_ids, strict=True):
            tokens = _draws.up_to_the_first_other(own, draft, bonus)
            row[: len(tokens)] = tokens
        return out
