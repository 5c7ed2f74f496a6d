"""The usual mistakes, each a hypothesis of how the reported logprobs were made: one that explains them is named.

Roundings explain differences of 1e-2 and less. A hypothesis is found where it leaves at most a third of the RMS of the
difference. Of several it is the first, plain ones before those that fit a number, unless a later one leaves half of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from isologit.audit import _trainer
from isologit.audit._trainer import Head, States, over_rows

_LEAVES = 1 / 3
_TOP_P = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_TOP_K = (2, 5, 10, 20, 40, 50, 100, 200)


@dataclass
class Data:
    """Rows of one audit; captured: the rollout's own states where all are known, else the trainer's serve."""

    head: Head
    model: nn.Module
    trainer: States
    captured: Tensor | None
    ids: Tensor
    before_ids: Tensor  # the id of each row's own token
    reported: Tensor
    temperature: Tensor  # as said, 1 where nothing was
    run_again: Callable[[], States]  # the trainer, with the weights that it has then

    @property
    def hidden(self) -> Tensor:
        return self.trainer.hidden if self.captured is None else self.captured


def found(data: Data) -> list[dict]:
    base = _rms(_plain(data, data.hidden, data.ids, data.temperature), data.reported)
    best: dict | None = None
    for name, what, left in _hypotheses(data):
        if left <= base * _LEAVES and (best is None or left < best["rms_left"] / 2):
            best = {"mistake": name, "what": what, "rms": base, "rms_left": left}
    return [] if best is None else [best]


def _rms(one: Tensor, other: Tensor) -> float:
    finite = torch.isfinite(one) & torch.isfinite(other)
    # A support that leaves out a token that was drawn is none.
    return float((one[finite].double() - other[finite].double()).square().mean().sqrt()) if bool(finite.all()) else 1e30


def _plain(data: Data, hidden: Tensor, ids: Tensor, temperature: Tensor) -> Tensor:
    return over_rows(
        lambda h, i, t: _trainer._logprobs(data.head.logits(h), i, t), hidden, ids, temperature
    )


def _hypotheses(data: Data) -> Iterator[tuple[str, str, float]]:
    """(name, in words, RMS that is left)."""
    ones = torch.ones_like(data.temperature)
    unshifted = _plain(data, data.hidden, data.before_ids, data.temperature)
    yield "unshifted ids", "logprobs are of the token that each state belongs to, not of the next", _rms(
        unshifted, data.reported
    )
    yield from _norms(data)
    if bool((data.temperature != 1).any()):
        left = _rms(_plain(data, data.hidden, data.ids, ones), data.reported)
        yield "missing temperature", "logprobs are those at temperature 1, not at the one that was said", left
    if bool((data.temperature == data.temperature[0]).all()):
        best = _best_temperature(data)
        left = _rms(_plain(data, data.hidden, data.ids, ones * best), data.reported)
        yield "wrong temperature", f"logprobs are those at a temperature of about {best:.3g}", left
    if data.head.padded.shape[0] > data.head.weight.shape[0]:
        rows = over_rows(
            lambda h, i, t: _trainer._logprobs(data.head.logits(h, padded=True), i, t),
            data.hidden,
            data.ids,
            data.temperature,
        )
        what = f"all {data.head.padded.shape[0]} rows of the weight share in the sum, not the vocabulary's"
        yield "padded vocabulary", what, _rms(rows, data.reported)
    yield from _bf16_copy(data)
    yield from _cuts(data)


def _bf16_copy(data: Data) -> Iterator[tuple[str, str, float]]:
    """Of captured states the head's weight alone differs; without them the trainer's whole model is rounded."""
    parameters = [one for one in data.model.parameters() if one.dtype == torch.float32]
    rounded = [one.data.bfloat16() for one in parameters]
    if all(torch.equal(one.data, copy.float()) for one, copy in zip(parameters, rounded, strict=True)):
        return
    if data.captured is not None:
        bias = None if data.head.bias is None else data.head.bias.bfloat16()
        head = replace(data.head, weight=data.head.weight.bfloat16(), bias=bias)
        copied = replace(data, head=head)
        made = _plain(copied, copied.hidden, data.ids, data.temperature)
    else:
        masters = [one.data for one in parameters]
        try:
            for one, copy in zip(parameters, rounded, strict=True):
                one.data = copy.float()
            made = data.run_again().reported
        finally:
            for one, master in zip(parameters, masters, strict=True):
                one.data = master
    what = "logprobs are of a bf16 copy of the weights, which the trainer holds in f32"
    yield "f32 master weights against a bf16 copy", what, _rms(made, data.reported)


def _norms(data: Data) -> Iterator[tuple[str, str, float]]:
    norm = _trainer.final_norm(data.model)
    if norm is None or data.trainer.before_norm is None:
        return
    name = "state before the final norm"
    if data.captured is None:
        left = _rms(_plain(data, data.trainer.before_norm, data.ids, data.temperature), data.reported)
        yield name, "logprobs are of states that the final norm was not applied to", left
    else:
        normed = norm(data.captured.to(norm.weight.device, norm.weight.dtype)).cpu()
        left = _rms(_plain(data, normed, data.ids, data.temperature), data.reported)
        yield name, "the captured states are those before the final norm, not those at the head", left


def _best_temperature(data: Data) -> float:
    """Golden section in ln T."""
    low, high, golden = -2.0, 2.0, (5**0.5 - 1) / 2
    ones = torch.ones_like(data.temperature)

    def left(x: float) -> float:
        return _rms(_plain(data, data.hidden, data.ids, ones * float(torch.tensor(x).exp())), data.reported)

    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = left(a), left(b)
    while high - low > 1e-3:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = left(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = left(b)
    return float(torch.tensor((low + high) / 2).exp())


def _cuts(data: Data) -> Iterator[tuple[str, str, float]]:
    """Processed logprobs: of what a top-p or top-k left, hence above the raw ones by -ln of the mass that was kept."""

    def kept(hidden: Tensor, ids: Tensor, temperature: Tensor) -> Tensor:
        ordered = torch.log_softmax(data.head.logits(hidden) / temperature[:, None], -1).sort(-1, descending=True)[0]
        mass = ordered.double().exp().cumsum(-1)
        columns = [mass[:, min(k, mass.shape[1]) - 1] for k in _TOP_K]
        for p in _TOP_P:
            last = (mass < p).sum(-1, keepdim=True).clamp(max=mass.shape[1] - 1)
            columns.append(mass.gather(1, last)[:, 0])
        return torch.stack(columns, 1)

    log_kept = over_rows(kept, data.hidden, data.ids, data.temperature).log()
    raw = _plain(data, data.hidden, data.ids, data.temperature).double()
    for i, cut in enumerate([f"top_k {k}" for k in _TOP_K] + [f"top_p {p}" for p in _TOP_P]):
        mass = float(log_kept[:, i].exp().mean())
        what = f"reported logprobs are of what {cut} left (it keeps {mass:.3f} of the mass), the trainer's of all ids"
        yield "processed logprobs", what, _rms(raw - log_kept[:, i], data.reported)
