"""Prompt logprobs in blocks of rows, in vLLM's V1 runner.

vLLM's own function makes the logits of all of a prompt's tokens that were scheduled, [tokens, V], and as many logprobs.
Here it is called for a block of them after the other, as if each had been scheduled by itself.
"""

from typing import Any

from torch import Tensor

ROWS = 64  # as many as the head computes at full speed


class PromptBlocks:
    """In the place of `_get_prompt_logprobs_dict` of one runner."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._whole = runner._get_prompt_logprobs_dict
        runner._get_prompt_logprobs_dict = self

    def __call__(self, hidden_states: Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for request_id in list(self._runner.num_prompt_logprobs):
            request, scheduled = self._runner.requests[request_id], num_scheduled_tokens.get(request_id, 0)
            computed = request.num_computed_tokens
            try:
                for done in range(0, scheduled, ROWS):
                    request.num_computed_tokens = computed + done
                    block = {request_id: min(ROWS, scheduled - done)}
                    # The function finds the request's rows from where they begin in the batch.
                    results |= self._whole(hidden_states[done:], block)
            finally:
                request.num_computed_tokens = computed
        return results
