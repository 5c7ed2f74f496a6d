"""Where the difference between a rollout's logprobs and a trainer's comes from: docs/audit.md."""

import math
import os
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import isologit
from isologit import _captured
from isologit.audit import _attribution, _mistakes, _rollouts, _trainer

WORST = 20


def audit(
    model: nn.Module,
    rollouts: str | os.PathLike,
    *,
    captured: str | os.PathLike | None = None,
    tokenizer: Any = None,
    temperature: float | None = None,
    forward: bool = False,
) -> dict[str, Any]:
    """Runs the model, of Transformers, on the rollouts' tokens, and compares the logprobs.

    captured: a file of `isologit.capture` of the same rollouts, for their own states. temperature: of the rollouts'
    logprobs; default what the file says of each, else 1. forward: whether to run both sides once more under
    isologit.hf.install(model, scope="model"), the rollouts' token by token with a cache.
    The result is what `isologit audit --json` prints.
    """
    rows = None if captured is None else _captured.read(captured)
    return of_rollouts(
        model, _rollouts.read(rollouts), rows, tokenizer=tokenizer, temperature=temperature, forward=forward
    )


@torch.no_grad()
def of_rollouts(
    model: nn.Module,
    read: list[_rollouts.Rollout],
    captured: dict[str, Tensor] | None,
    *,
    tokenizer: Any,
    temperature: float | None,
    forward: bool,
) -> dict[str, Any]:
    """audit of files that were read."""
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a finite number above 0")
    temperatures = [temperature or one.temperature or 1.0 for one in read]  # greedy ones report at 1
    head = _trainer.Head.of(model)
    _check_ids(read, head.weight.shape[0])
    if not any(_trainer.scored_rows(one)[0] for one in read):
        raise ValueError("no token of the rollouts has a logprob; ask the engine for logprobs")
    trainer = _trainer.run(model, read, temperatures)
    scored = [_trainer.scored_rows(one) for one in read]
    ids = torch.cat([tokens for _, tokens in scored])
    positions = torch.tensor([row for rows, _ in scored for row in rows])
    own = torch.tensor([one.ids[row] for one, (rows, _) in zip(read, scored, strict=True) for row in rows])
    sequences = torch.tensor([i for i, (rows, _) in enumerate(scored) for _ in rows])
    reported = torch.tensor([one for rollout in read for one in _reported(rollout)], dtype=torch.float64)
    t = torch.tensor([x for x, (rows, _) in zip(temperatures, scored, strict=True) for _ in rows])
    states = None if captured is None else _match(read, captured)

    trainer_right = head.exact(trainer.hidden, ids, t)
    rollout_right = None if states is None else head.exact(states, ids, t)
    sides = {"reported": reported, "trainer's": trainer.reported, "trainer's right": trainer_right}
    for name, of in (sides if rollout_right is None else sides | {"rollout's right": rollout_right}).items():
        if not bool(torch.isfinite(of).all()):
            i = int((~torch.isfinite(of)).nonzero()[0, 0])
            raise ValueError(
                f"rollout {int(sequences[i]) + 1}, position {int(positions[i]) + 1}: the {name} logprob is "
                f"{float(of[i])}; expected a finite one: leave such tokens out of the file (null)"
            )
    parts = _attribution.parts(reported, rollout_right, trainer_right, trainer.reported)
    data = _mistakes.Data(
        head, model, trainer, states, ids, own, reported, t, lambda: _trainer.run(model, read, temperatures)
    )
    worst = (reported - trainer.reported.double()).abs().argsort(descending=True)[:WORST].tolist()
    d_by = (reported, trainer.reported)
    result = {
        "isologit": isologit.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": model.config.name_or_path or type(model).__name__,
        "trainer_dtype": str(model.dtype).removeprefix("torch."),
        "trainer_device": str(model.device),
        "rollouts": len(read),
        "captured": states is not None,
        "measures": _attribution.measures(*d_by),
        "decomposition": _attribution.sums(parts),
        "remedies": _remedies(head, states, trainer, ids, t, reported),
        "mistakes": _mistakes.found(data),
        "greedy_flips": None if states is None else _flips(head, states, trainer.hidden),
        "by_position": _attribution.grouped(positions.double(), _edges(int(positions.max()) + 1), *d_by),
        "by_probability": _attribution.grouped(
            trainer_right.double().exp(), [0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 1.01], *d_by
        ),
        "worst": [_row(i, parts[i], ids, positions, sequences, *d_by, tokenizer) for i in worst],
        "by_token": _by_token(ids, reported, trainer.reported, tokenizer),
    }
    if forward:
        result["remedies"].append(_remedy("isologit forward on both sides", *_trainer.forward(model, read, ids, t)))
    result["tokens"] = [_row(i, parts[i], ids, positions, sequences, *d_by, None) for i in range(len(ids))]
    return result


def _check_ids(rollouts: list[_rollouts.Rollout], size: int) -> None:
    for i, one in enumerate(rollouts):
        wrong = next((token for token in one.ids if not 0 <= token < size), None)
        if wrong is not None:
            raise ValueError(f"rollout {i + 1} has the token id {wrong}; expected 0 to {size - 1}: is it this model's?")


def _reported(rollout: _rollouts.Rollout) -> list[float]:
    start = len(rollout.prompt)
    return [one for i, one in enumerate(rollout.logprobs) if one is not None and start + i > 0]


def _match(rollouts: list[_rollouts.Rollout], rows: dict[str, Tensor]) -> Tensor:
    """The captured state of each scored token. Sequences are known by their tokens, equal ones by their logprobs."""
    by_sequence: dict[int, dict[int, int]] = {}
    columns = (rows[name].tolist() for name in ("sequence_ids", "positions", "token_ids"))
    for i, (sequence, position, token) in enumerate(zip(*columns, strict=True)):
        if token != _captured.NO_TOKEN:
            by_sequence.setdefault(sequence, {})[position] = i
    free, chosen = dict(by_sequence), []
    for number, rollout in enumerate(rollouts):
        at, ids = _trainer.scored_rows(rollout)
        if not at:
            continue
        reported = torch.tensor(_reported(rollout), dtype=torch.float64)
        best: tuple[float, int] | None = None
        for sequence, places in free.items():
            if not all(row in places for row in at):
                continue
            own = torch.tensor([places[row] for row in at])
            if torch.equal(rows["token_ids"][own], ids):
                apart = float((rows["logprobs"][own].double() - reported).abs().nan_to_num().sum())
                best = min(best, (apart, sequence)) if best else (apart, sequence)
        if best is None:
            raise ValueError(
                f"rollout {number + 1} is not among the {len(by_sequence)} captured sequences (or was taken by an "
                "equal one); expected one with its tokens at its positions: capture the run that made the rollouts"
            )
        places = free.pop(best[1])
        chosen += [places[row] for row in at]
    return rows["hidden_states"][torch.tensor(chosen)]


def _remedies(head, states, trainer, ids, t, reported) -> list[dict[str, Any]]:
    """What would be left, measured on the same states. Without the rollout's own only its side as reported is there."""
    bf16, f32 = torch.bfloat16, torch.float32
    mine = trainer.hidden
    sides = {
        "as it is": (reported, trainer.reported),
        "f32 logits of the trainer": (reported, head.usual(mine, ids, t, f32)),
    }
    if states is not None:
        sides["bf16 logits on both sides"] = (head.usual(states, ids, t, bf16), head.usual(mine, ids, t, bf16))
        sides["f32 logits of the rollout"] = (head.usual(states, ids, t, f32), trainer.reported)
        sides["f32 logits on both sides"] = (head.usual(states, ids, t, f32), head.usual(mine, ids, t, f32))
        sides["isologit head on both sides"] = (head.exact(states, ids, t), head.exact(mine, ids, t))
    return [_remedy(name, *pair) for name, pair in sides.items()]


def _remedy(name: str, rollout: Tensor, trainer: Tensor) -> dict[str, Any]:
    of = _attribution.measures(rollout, trainer)
    return {"remedy": name} | {key: of[key] for key in ("mean_abs", "rms", "max_abs", "k3")}


def _flips(head: _trainer.Head, states: Tensor, trainer: Tensor) -> int:
    """Rows whose greatest logit is another id's on the other side."""

    def greedy(hidden: Tensor) -> Tensor:
        return _trainer.over_rows(lambda rows: head.logits(rows).argmax(-1), hidden)

    return int((greedy(states) != greedy(trainer)).sum())


def _edges(length: int) -> list[float]:
    edges = [0.0, 8.0]
    while edges[-1] < length:
        edges.append(edges[-1] * 2)
    return edges


def _row(i, parts, ids, positions, sequences, reported, trainer, tokenizer) -> dict[str, Any]:
    row = {
        "rollout": int(sequences[i]) + 1,
        "position": int(positions[i]) + 1,
        "token_id": int(ids[i]),
        "reported": float(reported[i]),
        "trainer": float(trainer[i]),
        "difference": float(parts.total),
        "exactly": {name: None if one is None else str(one) for name, one in parts._asdict().items()},
    }
    if tokenizer is not None:
        row["token"] = tokenizer.decode([row["token_id"]])
    return row


def _by_token(ids: Tensor, reported: Tensor, trainer: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
    """The ids whose differences add up to most."""
    d = (reported.double() - trainer.double()).abs()
    distinct, where = ids.unique(return_inverse=True)
    total = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, where, d)
    count = torch.bincount(where)
    order = total.argsort(descending=True)[:WORST].tolist()
    found = [
        {"token_id": int(distinct[i]), "tokens": int(count[i]), "mean_abs": float(total[i] / count[i])} for i in order
    ]
    if tokenizer is not None:
        found = [one | {"token": tokenizer.decode([one["token_id"]])} for one in found]
    return found
