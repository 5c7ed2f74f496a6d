"""Captures what passes the head of a model of Transformers."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isologit._captured import BYTES_PER_FILE, NO_TOKEN, Writer

_ROWS = 256  # of logits made f32 at a time


@contextlib.contextmanager
def capture(
    model: nn.Module, path: str | os.PathLike, *, append: bool = False, bytes_per_file: int = BYTES_PER_FILE
) -> Iterator[Writer]:
    """Writes the rows that the model's head is applied to, while the context lasts, to a file that all verbs read.

    model : a causal language model of Transformers, called with input_ids, by itself or by generate().
    path : the file; docs/audit.md says what it holds. append: to one that is there. What would take more than
    bytes_per_file is written to further files beside it, so no more than that is held in memory.

    The token of a row is the input id that follows it. With a cache a row waits for it until the next call; the row
    that no call follows has none: the last token of generate() is not scored. logprobs are the log_softmax, in f32, of
    the logits that the model gave. Sequences must keep their place in the batch: no beam search.
    """
    writer = Writer(path, append=append, bytes_per_file=bytes_per_file)
    rows = _Rows(writer, model)
    try:
        yield writer
    finally:
        rows.remove()
        writer.close()


class _Rows:
    """The calls of a model: states at its head, ids at its inputs, and the rows still waiting for their token."""

    def __init__(self, writer: Writer, model: nn.Module) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise ValueError(f"{type(model).__name__} has no output embeddings; expected a causal language model")
        self._writer = writer
        self._sequence = writer.first_sequence
        self._hidden: Tensor | None = None
        self._columns = 0  # of ids that the last call had seen, padding among them
        self._waiting: list[dict[str, Any]] = []  # of the last call, one for each of its sequences
        self._hooks = [
            head.register_forward_pre_hook(self._at_head),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._release(None)

    def _at_head(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._hidden = args[0].detach()

    def _after(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None or self._hidden is None:
            raise ValueError("the model was called without input_ids or its head; capture needs both")
        hidden, logits = self._hidden, output.logits.detach()
        self._hidden = None
        mask = kwargs.get("attention_mask")
        batch, length = ids.shape
        seen = [row["position"] + 1 for row in self._waiting]
        cache = kwargs.get("past_key_values", kwargs.get("cache"))  # Transformers' former name, and its new one
        cached = 0 if cache is None else cache.get_seq_length() - length
        goes_on = len(seen) == batch and cached > 0 and cached == self._columns
        self._columns = cached + length
        self._release(ids[:, 0] if goes_on else None)
        if goes_on:
            numbers, starts = [row["sequence"] for row in self._former], seen
        else:
            numbers, starts = list(range(self._sequence, self._sequence + batch)), [0] * batch
            self._sequence += batch
        first = length - hidden.shape[1]  # logits_to_keep
        for i in range(batch):
            own = torch.ones(length, dtype=torch.bool) if mask is None or mask.dim() != 2 else mask[i, -length:].bool()
            places = (own.cumsum(0) - 1 + starts[i]).tolist()
            rows = [k for k in range(first, length) if own[k]]
            follow = {k: nxt for k, nxt in zip(rows, rows[1:], strict=False)}
            scored = [k for k in rows if k in follow]
            if scored:
                tokens = torch.stack([ids[i, follow[k]] for k in scored])
                at = torch.tensor([k - first for k in scored])
                self._write(hidden[i, at], logits[i, at], tokens, [places[k] for k in scored], numbers[i])
            last = rows[-1] if rows else None
            self._waiting.append(
                {
                    "hidden": None if last is None else hidden[i, last - first].clone(),
                    "logits": None if last is None else logits[i, last - first].clone(),
                    "position": -1 if last is None else places[last],
                    "sequence": numbers[i],
                }
            )

    def _release(self, tokens: Tensor | None) -> None:
        """The waiting rows, with the tokens that followed them or with none."""
        for i, row in enumerate(self._waiting):
            if row["hidden"] is None:
                continue
            token = torch.tensor([NO_TOKEN]) if tokens is None else tokens[i : i + 1]
            self._write(row["hidden"][None], row["logits"][None], token, [row["position"]], row["sequence"])
        self._former, self._waiting = self._waiting, []

    def _write(self, hidden: Tensor, logits: Tensor, tokens: Tensor, positions: list[int], sequence: int) -> None:
        tokens = tokens.cpu()
        reported = torch.full((len(tokens),), torch.nan)
        if int(tokens[0]) != NO_TOKEN:
            for begin in range(0, len(tokens), _ROWS):
                block = slice(begin, begin + _ROWS)
                of_all = torch.log_softmax(logits[block].float(), -1).cpu()
                reported[block] = of_all.gather(1, tokens[block, None])[:, 0]
        self._writer.add(
            hidden,
            token_ids=tokens,
            logprobs=reported,
            positions=torch.tensor(positions),
            sequence_ids=torch.full((len(tokens),), sequence),
        )
