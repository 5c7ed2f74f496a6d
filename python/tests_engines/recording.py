"""What the recorder kept of a run, against what the engine returned from it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import expected
import numpy as np
import torch

import isologit


class Recording:
    def __init__(self, engine: Any, folder: Path, whole: torch.Tensor | None = None) -> None:
        """whole: the head's weight where each of several ranks has a part."""
        self._engine, self._folder, self._whole = engine, folder, whole

    def __enter__(self) -> "Recording":
        self._engine.collective_rpc("head_weight", args=(str(self._folder / "weight"),))
        self._engine.collective_rpc("record")
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.collective_rpc("recorded", args=(str(self._folder / "rows"),))
        self.steps, self.prompts = torch.load(self._folder / "rows")
        self.weight = torch.load(self._folder / "weight") if self._whole is None else self._whole

    def rows(self, output: Any, completion: Any, kind: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(hidden, logits) for each token of a completion. kind: "logits", the model's, "given", what the sampler was
        given, "scaled", these after penalties and temperature, or "final", what vLLM's cuts left to draw from."""
        name = output.request_id if len(output.outputs) == 1 else f"{completion.index}_{output.request_id}"
        found = [
            (step["hidden"][row], step[kind][row])
            for step in self.steps
            for row, request in enumerate(step["requests"])
            if request == name
        ]
        assert len(found) == len(completion.token_ids)
        return found

    def wrong(self, outputs: Iterable[Any], kind: str = "logits") -> list[str]:
        """Returned logprobs that are not the rounded log-softmax of the logits. Of the model's own logits, they must
        also be linear_logprobs of the hidden states."""
        found, count = [], 0
        for output in outputs:
            for completion in output.outputs:
                rows = self.rows(output, completion, kind)
                assert len(rows) == len(completion.logprobs) == len(completion.token_ids) > 0
                for row, token, returned in zip(rows, completion.token_ids, completion.logprobs, strict=True):
                    assert token in returned
                    found += self.wrong_of_row(*row, returned, kind == "logits")
                    found += self.wrong_rank(row[1], token, returned[token])
                    count += len(returned)
        assert count > 0
        return found

    def wrong_of_row(self, hidden: torch.Tensor, logits: torch.Tensor, returned: dict, is_raw: bool) -> list[str]:
        ids = list(returned)
        values = [returned[token].logprob for token in ids]
        right = expected.log_softmax(logits.float().numpy(), ids)
        found = [
            f"id {token}: {value!r}, not {want!r}"
            for token, value, want in zip(ids, values, right.tolist(), strict=True)
            if expected.bits(value) != expected.bits(want)
        ]
        if is_raw:
            vocab_size = logits.shape[0]
            head = isologit.linear_logprobs(hidden[None], self.weight, torch.tensor([ids]), vocab_size=vocab_size)
            if expected.bits(head.logprobs[0]) != expected.bits(values):
                found.append(f"ids {ids}: {values}, not linear_logprobs, {head.logprobs[0].tolist()}")
        return found

    def wrong_rank(self, logits: torch.Tensor, token: int, returned: Any) -> list[str]:
        """vLLM's rank of a sampled token: how many logprobs are at least as great."""
        rank = int((isologit.log_softmax(logits.float()) >= returned.logprob).sum())
        return [] if returned.rank == rank else [f"id {token} has rank {returned.rank}, not {rank}"]

    def wrong_logits(self, most: int = 4) -> int:
        """Logits, of some rows, that are not the exact sum of products rounded once."""
        assert self.steps
        weight, count = self.weight.float().numpy(), 0
        for step in self.steps[:most]:
            logits = step["logits"][0].float().numpy()
            right = expected.logits(step["hidden"][0].float().numpy(), weight[: logits.shape[0]])
            count += int(np.count_nonzero(right.view(np.uint32) != logits.view(np.uint32)))
        return count
