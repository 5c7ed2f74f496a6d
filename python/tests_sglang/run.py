"""What an engine returned, against what was recorded meanwhile."""

import os
from pathlib import Path

import expected
import numpy as np
import torch

import isologit


class Run:
    """What one call of generate returned, and what was recorded meanwhile."""

    def __init__(self, engine, prompts, params, **asked) -> None:
        folder = Path(os.environ["RECORDER_FOLDER"])
        for file in folder.iterdir():
            file.unlink()
        self.outputs = engine.generate(prompts, params, return_logprob=True, **asked)
        if isinstance(self.outputs, dict):
            self.outputs = [self.outputs]
        self.heads = [torch.load(file) for file in sorted(folder.glob("head-*"))]
        self.samplers = [torch.load(file) for file in sorted(folder.glob("sampler-*"))]
        assert self.heads

    def wrong_logits(self, weight: torch.Tensor | None = None) -> int:
        """Of the first rows of each step: those that are not the exact sum of products rounded once. weight: of all
        ranks, where there are more."""
        count = 0
        for step in self.heads[:4]:
            logits = step["logits"][0].numpy()
            values = (step["weight"] if weight is None else weight).float().numpy()
            right = expected.logits(step["hidden"][0].float().numpy(), values[: len(logits)])
            count += int(np.count_nonzero(right.view(np.uint32) != logits.view(np.uint32)))
        return count

    def wrong_sampled(self) -> list[str]:
        """Logprobs that the sampler returned, of final logits over their temperature."""
        assert self.samplers
        found = []
        for step in self.samplers:
            rows = zip(step["final"], step["temperatures"], step["ids"], step["logprobs"], strict=True)
            for final, temperature, token, logprob in rows:
                (right,) = expected.log_softmax(final.numpy() / temperature.numpy(), [int(token)])
                if expected.bits(right) != expected.bits(logprob):
                    found.append(f"id {int(token)}: {float(logprob)!r}, not {right!r}")
        return found


def wrong(rows, returned, temperature=1.0) -> list[str]:
    """rows: of (hidden, logits, weight) for each list of (logprob, id, text) returned. Without penalties they are
    linear_logprobs of the hidden states, too."""
    assert len(rows) == len(returned) > 0
    found = []
    for (hidden, logits, weight), entries in zip(rows, returned, strict=True):
        values, ids = [entry[0] for entry in entries], [entry[1] for entry in entries]
        right = expected.log_softmax(logits.numpy() / np.float32(temperature), ids)
        head = isologit.linear_logprobs(
            hidden[None], weight, torch.tensor([ids]), vocab_size=len(logits), temperature=temperature
        )
        if expected.bits(values) != expected.bits(right) or expected.bits(values) != expected.bits(head.logprobs[0]):
            found.append(f"ids {ids}: {values}, not {right.tolist()}")
    return found


def rows(steps):
    return [
        (hidden, logits, step["weight"])
        for step in steps
        for hidden, logits in zip(step["hidden"], step["logits"], strict=True)
    ]
