"""The losses of policy optimization as functions of f32 logprobs, over arrays: docs/losses.md.

A token has a term, and a gradient with respect to its logprob: real functions of f32 numbers, each rounded once. A loss
is the real sum of terms over whole numbers, rounded once.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from isologit._real import Real, rounded
from isologit._rounding import round_to_odd

_BITS = 200  # sums are whole numbers of 2^-200, which every f32 is


class Options(NamedTuple):
    """Numbers are rounded to f32. `kind` is one of KINDS."""

    kind: str
    clip_low: float
    clip_high: float
    kl_weight: float
    tau_positive: float
    tau_negative: float
    max_length: int


class Batch(NamedTuple):
    """f32 [B, T], mask bool [B, T]. ref_logprobs may be None."""

    logprobs: np.ndarray
    old_logprobs: np.ndarray
    advantages: np.ndarray
    mask: np.ndarray
    ref_logprobs: np.ndarray | None


def _clipped(ratio: Real, advantage: Real, options: Options) -> Real:
    inside = ratio.clip(1 - Fraction(options.clip_low), 1 + Fraction(options.clip_high))
    return -(ratio * advantage).minimum(inside * advantage)


def _clipped_slope(ratio: Real, advantage: Real, options: Options) -> Real:
    """Of the above in ln ratio: 0 where the minimum is the clipped one, which it is not at its very edge."""
    slope = -(ratio * advantage)
    least, most = 1 - Fraction(options.clip_low), 1 + Fraction(options.clip_high)
    gain = slope.where(ratio, most).where(-advantage, 0)
    return gain + slope.where(-ratio, -least).where(advantage, 0)


def _cispo(logprob: Real, ratio: Real, advantage: Real, options: Options) -> Real:
    return _cispo_slope(ratio, advantage, options) * logprob


def _cispo_slope(ratio: Real, advantage: Real, options: Options) -> Real:
    return -(ratio.clip(1 - Fraction(options.clip_low), 1 + Fraction(options.clip_high)) * advantage)


def _gate(ratio: Real, tau: Real) -> Real:
    return (((-tau) * (ratio - 1)).exp() + 1).inverse()


def _sapo(ratio: Real, advantage: Real, tau: Real) -> Real:
    return -(_gate(ratio, tau) * advantage * 4 * tau.inverse())


def _sapo_slope(ratio: Real, advantage: Real, tau: Real) -> Real:
    gate = _gate(ratio, tau)
    return -(gate * (-gate + 1) * ratio * advantage * 4)


KL: dict[str, tuple[Callable[[Real, Real], Real], Callable[[Real, Real], Real]]] = {
    "k1": (lambda logprob, ref: logprob - ref, lambda logprob, ref: logprob.number(1)),
    "k2": (lambda logprob, ref: (logprob - ref) * (logprob - ref) * 0.5, lambda logprob, ref: logprob - ref),
    "k3": (
        lambda logprob, ref: (ref - logprob).exp_minus_1_minus_x(),
        lambda logprob, ref: -(ref - logprob).exp_minus_1(),
    ),
}
# What a sequence's sum of terms is divided by, and what the sum of all is: a number of sequences or of tokens.
KINDS = {
    "grpo": ("length", "sequences"),
    "dapo": ("one", "tokens"),
    "dr_grpo": ("max_length", "sequences"),
    "cispo": ("one", "tokens"),
    "gspo": ("one", "sequences"),
    "sapo": ("length", "sequences"),
}


class Sum:
    """A part of a loss: of one rank's sequences, or of a micro-batch's. `+` makes a part of two.

    loss() is the loss of all that was added up, rounded once: however the sequences were split.
    """

    def __init__(self, kind: str, over: dict[int, int], special: float, sequences: int, tokens: int) -> None:
        """over: by what they are divided by, sums of terms in units of 2^-200. special: of those that are not finite"""
        self.kind, self.over, self.special, self.sequences, self.tokens = kind, over, special, sequences, tokens

    def __add__(self, other: "Sum") -> "Sum":
        if other.kind != self.kind:
            raise ValueError(f"a part of {self.kind} and a part of {other.kind}; expected parts of one loss")
        keys = {*self.over, *other.over}
        over = {key: self.over.get(key, 0) + other.over.get(key, 0) for key in sorted(keys)}
        counts = (self.sequences + other.sequences, self.tokens + other.tokens)
        return Sum(self.kind, over, self.special + other.special, *counts)

    @property
    def count(self) -> int:
        """Of sequences or of tokens, whichever the loss is a mean over."""
        return self.sequences if KINDS[self.kind][1] == "sequences" else self.tokens

    def loss(self, count: int | None = None) -> np.float32:
        """Over `count`, or what was counted; NaN over nothing."""
        count = self.count if count is None else count
        if count == 0:
            return np.float32(np.nan)
        if self.special != 0:  # NaN too
            return np.float32(self.special)
        total = sum((Fraction(numerator, key) for key, numerator in self.over.items()), Fraction(0))
        return np.float32(round_to_odd(total / count / 2**_BITS)) + np.float32(0)


def exact_sum(values: np.ndarray) -> int:
    """Of finite f32, in units of 2^-200."""
    fractions, exponents = np.frexp(values.astype(np.float64))
    whole = (fractions * 2.0**24).astype(np.int64)
    return sum(
        int(whole[exponents == exponent].sum()) << (int(exponent) - 24 + _BITS) for exponent in np.unique(exponents)
    )


def quotient(values: np.ndarray, divisor: float) -> np.float32:
    """RN32 of the sum of f32 over a number; NaN over 0, and what IEEE arithmetic makes of infinities and NaN."""
    if divisor == 0:
        return np.float32(np.nan)
    if not np.isfinite(values).all():
        return np.float32(values[~np.isfinite(values)].sum() / divisor)
    return np.float32(round_to_odd(Fraction(exact_sum(values), 2**_BITS) / Fraction(divisor))) + np.float32(0)


def _columns(batch: Batch, options: Options) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """What the formulas take of each term: of tokens that count, or, for gspo, of sequences. First its sequence."""
    rows = np.nonzero(batch.mask)[0]
    kept = [None if x is None else x[batch.mask] for x in (batch.logprobs, batch.old_logprobs, batch.advantages)]
    tau = np.where(kept[2] > 0, np.float32(options.tau_positive), np.float32(options.tau_negative))
    ref = kept[0] if batch.ref_logprobs is None else batch.ref_logprobs[batch.mask]
    return rows, [*kept, ref], tau


def _log_ratios(batch: Batch) -> np.ndarray:
    """The mean over each sequence of logprob - old_logprob: Fractions [B], or NaN."""
    found = []
    for logprobs, old, mask in zip(batch.logprobs, batch.old_logprobs, batch.mask, strict=True):
        pair = np.concatenate([logprobs[mask], -old[mask]])
        finite = len(pair) > 0 and np.isfinite(pair).all()
        found.append(Fraction(exact_sum(pair), 2**_BITS * (len(pair) // 2)) if finite else None)
    return np.array(found, object)


def _formula(options: Options, has_kl: bool, slope: bool) -> Callable[..., Real]:
    """Of (logprob, old_logprob, advantage, ref_logprob, tau): the term, or its slope in the logprob."""

    def formula(logprob: Real, old: Real, advantage: Real, ref: Real, tau: Real) -> Real:
        ratio = (logprob - old).exp()
        if options.kind == "sapo":
            found = (_sapo_slope if slope else _sapo)(ratio, advantage, tau)
        elif options.kind == "cispo":
            found = _cispo_slope(ratio, advantage, options) if slope else _cispo(logprob, ratio, advantage, options)
        else:
            found = (_clipped_slope if slope else _clipped)(ratio, advantage, options)
        return found + KL["k3"][slope](logprob, ref) * options.kl_weight if has_kl else found

    return formula


def _divisors(batch: Batch, options: Options) -> np.ndarray:
    lengths = batch.mask.sum(1)
    return {"length": lengths, "one": np.ones_like(lengths), "max_length": np.full_like(lengths, options.max_length)}[
        KINDS[options.kind][0]
    ]


def terms(batch: Batch, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Of each term the sequence that it belongs to, and its value."""
    if options.kind == "gspo":
        rows = np.flatnonzero(batch.mask.any(1))
        logs, advantages = _log_ratios(batch)[rows], _of_sequences(batch)[rows]
        finite = np.array([log is not None for log in logs], bool)
        logs[~finite] = Fraction(0)
        found = rounded(lambda log, advantage: _clipped(log.exp(), advantage, options), logs, advantages)
        return rows, np.where(finite, found, np.float32(np.nan))
    rows, columns, tau = _columns(batch, options)
    return rows, rounded(_formula(options, batch.ref_logprobs is not None, False), *columns, tau)


def _of_sequences(batch: Batch) -> np.ndarray:
    first = batch.mask.argmax(1)
    return batch.advantages[np.arange(len(first)), first] if batch.mask.size else batch.advantages[:, 0]


def partial(batch: Batch, options: Options) -> Sum:
    rows, values = terms(batch, options)
    divisors, finite = _divisors(batch, options)[rows], np.isfinite(values)
    over = {int(d): exact_sum(values[finite & (divisors == d)]) for d in np.unique(divisors)}
    special = float(values[~finite].sum())
    return Sum(options.kind, over, special, int(batch.mask.any(1).sum()), int(batch.mask.sum()))


def gradient(batch: Batch, options: Options, upstream: np.float32, count: int) -> np.ndarray:
    """Of loss(count) with respect to logprobs, [B, T]: upstream * slope / (divisor * count), each rounded once."""
    result = np.zeros(batch.logprobs.shape, np.float32)
    rows, columns, tau = _columns(batch, options)
    shares = [Fraction(1, int(d) * count) for d in np.maximum(_divisors(batch, options), 1)]
    if not np.isfinite(upstream):
        result[batch.mask] = np.nan
        return result
    if options.kind == "gspo":
        logs, lengths = _log_ratios(batch), batch.mask.sum(1)
        open_ = np.array([log is None for log in logs], bool)
        logs[open_] = Fraction(0)
        shares = np.array([share / max(int(n), 1) for share, n in zip(shares, lengths, strict=True)], object)
        found = rounded(
            lambda log, advantage, share: _clipped_slope(log.exp(), advantage, options) * float(upstream) * share,
            logs,
            _of_sequences(batch),
            shares,
        )
        found[open_] = np.nan
        result[batch.mask] = found[rows]
        return result
    slope = _formula(options, batch.ref_logprobs is not None, True)
    each = np.array(shares, object)[rows]
    result[batch.mask] = rounded(lambda *args: slope(*args[:-1]) * float(upstream) * args[-1], *columns, tau, each)
    return result


def per_token(formula: Callable[..., Real], *arrays: Any) -> np.ndarray:
    """RN32 of a formula of f32 arrays of one shape."""
    return rounded(formula, *(np.ravel(array) for array in arrays)).reshape(np.shape(arrays[0]))
