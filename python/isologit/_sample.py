"""Samples: one token for each row."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from isologit import _inputs, _native
from isologit._docstrings import documented
from isologit._inputs import Array, HeadArgs, Lora
from isologit._support import SupportArgs


class Samples(NamedTuple):
    """Arrays or tensors in the shape [...] of the rows, ids int64 and the others f32. `sample` says what they are."""

    ids: Array
    logprobs: Array
    cut_logprobs: Array
    log_kept_cut: Array
    counts: Array

    @classmethod
    def zeros(cls, rows: Array) -> "Samples":
        """Of N rows; counts [8]: what Report.of reads."""
        floats = (_inputs.zeros(rows, rows.shape[:1], "float32") for _ in range(3))
        counts = _inputs.zeros(rows, (len(_native.Report._fields),), "int64")
        return cls(_inputs.zeros(rows, rows.shape[:1], "int64"), *floats, counts)

    report = property(lambda self: _native.Report.of(self.counts), doc="Report: which kernel and arithmetic made them.")


class SampleArgs(NamedTuple):
    """Of each of the lower ones [1] or [N]; seeds and sequence_ids are the bits of unsigned numbers."""

    head: HeadArgs
    support: SupportArgs
    seeds: Array
    sequence_ids: Array
    positions: Array
    min_p: Array
    top_k: Array
    top_p: Array

    @classmethod
    def of(cls, flat: Sequence[Array]) -> "SampleArgs":
        parts = iter(flat)
        head, support = (kind(*(next(parts) for _ in kind._fields)) for kind in (HeadArgs, SupportArgs))
        return cls(head, support, *parts)

    def flat(self) -> tuple[Array, ...]:
        return *self.head, *self.support, *self[2:]

    def zeros(self) -> Samples:
        return Samples.zeros(self.head.hidden)


def draws_of(
    hidden: Array, seed: Any, sequence_id: Any, position: Any, min_p: Any, top_k: Any, top_p: Any
) -> tuple[Array, ...]:
    """Those of SampleArgs, from what the caller gave for the rows of hidden."""
    return (
        _inputs.integers_per_row(seed, hidden, "seed", any_bits=True),
        _inputs.integers_per_row(sequence_id, hidden, "sequence_id", any_bits=True),
        _inputs.integers_per_row(position, hidden, "position"),
        _inputs.per_row(min_p, hidden, "min_p"),
        _inputs.integers_per_row(top_k, hidden, "top_k"),
        _inputs.per_row(top_p, hidden, "top_p"),
    )


def set_draws(args: Any, request: Any) -> Array:
    """seeds, sequence_ids, positions and cuts of a tuple that has them. Returns what must outlive the call."""
    outside = args.positions[(args.positions < 0) | (args.positions >= 2**32)]
    if len(outside):
        raise ValueError(f"position: {int(outside[0])}; expected 0 to 2^32 - 1")
    positions = (args.positions.numpy() if _inputs.is_tensor(args.positions) else args.positions).astype("uint32")
    request.positions, request.position_count = positions.ctypes.data, positions.size
    for name in ("seeds", "sequence_ids", "min_p", "top_k", "top_p"):
        values = getattr(args, name)
        setattr(request, name, _inputs.pointer(values))
        setattr(request, f"{name.removesuffix('s')}_count", len(values))
    return positions


def run(args: SampleArgs, peers: _native.PeersCalls | None = None) -> Samples:
    """isologit_sample, or isologit_sample_given."""
    head, results, request = args.head.native(), args.zeros(), _native.SampleRequest()
    args.head.set_rows(request)
    keep_alive = args.support.set_support(request), set_draws(args, request)
    for name, result in zip(Samples._fields[:-1], results, strict=False):
        setattr(request, name, _inputs.pointer(result))
    counts = _native.sample(head, request, given=args.head.weight is None, **args.head.options(peers))
    _inputs.fill(results.counts, counts)
    del keep_alive
    return results


@documented
def sample(
    hidden: Array,
    weight: Array,
    *,
    seed: int | Array,
    sequence_id: int | Array,
    position: int | Array,
    bias: Array | None = None,
    temperature: float | Array = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    transform_order: str = "softcap_first",
    min_p: float | Array = 0.0,
    top_k: int | Array = 0,
    top_p: float | Array = 1.0,
    vocab_size: int | None = None,
    lora: Lora | None = None,
    mask: Array | None = None,
    kept: Iterable[Sequence[int]] | None = None,
    banned: Iterable[Sequence[int]] | None = None,
    arithmetic: str = "exact",
    threads: int = 0,
    processors: Iterable[int] | None = None,
    kernel: str = "",
    dtype: str | None = None,
) -> Samples:
    """One token for each row, drawn from the softmax of its logits.

    The logits z are those of `score`. Then min_p, top_k and top_p cut the support, in this order, and the draw is the
    id in what is left for which the real number z - ln(-ln u) is greatest, u being the uniform number in (0, 1) of 64
    bits that Philox4x32-10 makes of seed, sequence_id, position and the id (CONTRACT.md 4). So a draw depends on its
    row and these three numbers alone: give each row its own sequence_id or position, or equal rows draw equal tokens. A
    temperature of 0 is allowed too: it takes the greatest logit, and nothing is cut.

    Parameters
    ----------
    <inputs>
    seed, sequence_id : int, or array or tensor of integers [...]
        Any numbers of 64 bits: the generator's key, and half of its counter.
    position : int, or array or tensor of integers [...]
        0 to 2^32 - 1: where in the sequence the token stands.
    <head>
    min_p : float, or array or tensor [...], default 0.0
        Cuts ids with p below min_p times the greatest p. 0 to 1; 0 cuts nothing.
    top_k : int, or array or tensor of integers [...], default 0
        Keeps the k greatest logits, equal ones by ascending id. 0 cuts nothing.
    top_p : float, or array or tensor [...], default 1.0
        Keeps the fewest of the greatest logits whose mass is at least top_p of what is left. Above 0; 1 cuts nothing.
    <support>
    <run>
    <threads>
    <dtype>

    Returns
    -------
    Samples
        A named tuple of arrays, or of tensors if hidden is one, [...]: `ids` (int64; -1 where the support has no logit
        above -inf), `logprobs` of these over the support, `cut_logprobs` over what the cuts left, `log_kept_cut`, ln of
        the share of the support's mass that the cuts left; f32, in nats. `.report` is the Report of the call: the
        kernel and the arithmetic that made the logits among others. Nothing here has a gradient: score the ids by
        `score`.

    <raises>
    """
    hidden = _inputs.as_floats(hidden, dtype)
    head = HeadArgs.of(
        hidden,
        weight,
        bias=bias,
        temperature=temperature,
        softcap=softcap,
        scale=scale,
        divide=divide,
        transform_order=transform_order,
        vocab_size=vocab_size,
        lora=lora,
        arithmetic=arithmetic,
        threads=threads,
        processors=processors,
        kernel=kernel,
        dtype=dtype,
    )
    args = SampleArgs(
        head,
        SupportArgs.of(hidden, head.vocab_size, mask, kept, banned),
        *draws_of(hidden, seed, sequence_id, position, min_p, top_k, top_p),
    )
    if args.head.by_operator():
        from isologit import _torch

        results = _torch.sample(args)
    else:
        results = run(args)
    return Samples(*(result.reshape(hidden.shape[:-1]) for result in results[:-1]), results.counts)
