"""Prompt logprobs in blocks of rows, in vLLM's V1 runner.

vLLM's own function makes the logits of all of a prompt's tokens that were scheduled, [tokens, V], and as many logprobs.
Here it is called for a block of them after the other, as if each had been scheduled by itself.
"""

import contextlib
from typing import Any

from torch import Tensor

from isologit.integrations.vllm._own_logits import MOST_TOP, OwnLogits

ROWS = 64  # as many as the head computes at full speed


class PromptBlocks:
    """In the place of `_get_prompt_logprobs_dict` of one runner. own: where ranks need not gather their logits."""

    def __init__(self, runner: Any, own: OwnLogits | None) -> None:
        self._runner, self._own = runner, own
        self._whole = runner._get_prompt_logprobs_dict
        runner._get_prompt_logprobs_dict = self

    def __call__(self, hidden_states: Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for request_id, top in list(self._runner.num_prompt_logprobs.items()):
            request, scheduled = self._runner.requests[request_id], num_scheduled_tokens.get(request_id, 0)
            computed = request.num_computed_tokens
            keeps = self._own is not None and top <= MOST_TOP
            try:
                for done in range(0, scheduled, ROWS):
                    request.num_computed_tokens = computed + done
                    block = {request_id: min(ROWS, scheduled - done)}
                    # The function finds the request's rows from where they begin in the batch.
                    with self._own if keeps else contextlib.nullcontext():
                        results |= self._whole(hidden_states[done:], block)
            finally:
                request.num_computed_tokens = computed
        return results
