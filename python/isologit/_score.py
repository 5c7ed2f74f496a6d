"""Scores: what a head says of given tokens, and of each row's distribution."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from isologit import _inputs, _native, _numbers
from isologit._docstrings import documented
from isologit._inputs import Array, HeadArgs, Lora
from isologit._support import SupportArgs

# The names of outputs, and their types.
OUTPUTS = {
    "logprobs": "float32",
    "lse": "float32",
    "entropy": "float32",
    "argmax": "int64",
    "rank": "int64",
    "raw_logprobs": "float32",
    "sum_p2": "float32",
    "log_kept": "float32",
    "mean_logits": "float32",
}
MOST_TOP_K = 1024
_OF_A_TOKEN = ("logprobs", "raw_logprobs", "rank")


class Scores(NamedTuple):
    """Arrays or tensors in the shape [...] of the rows; None where not asked for. `score` says what they are."""

    logprobs: Array | None = None
    lse: Array | None = None
    entropy: Array | None = None
    argmax: Array | None = None
    rank: Array | None = None
    raw_logprobs: Array | None = None
    sum_p2: Array | None = None
    log_kept: Array | None = None
    mean_logits: Array | None = None
    top_k_ids: Array | None = None
    top_k_logprobs: Array | None = None
    counts: Array | None = None

    report = property(lambda self: _native.Report.of(self.counts), doc="Report: which kernel and arithmetic made them.")


class ScoreArgs(NamedTuple):
    """token_ids [N] or [N, K]; summaries: whether to leave what backward wants."""

    head: HeadArgs
    support: SupportArgs
    token_ids: Array | None
    ignore_index: int
    outputs: Sequence[str]
    top_k: int
    summaries: bool

    @classmethod
    def of(cls, flat: Sequence[Any]) -> "ScoreArgs":
        """Of the same one after the other."""
        parts = iter(flat)
        head, support = (kind(*(next(parts) for _ in kind._fields)) for kind in (HeadArgs, SupportArgs))
        return cls(head, support, *(next(parts) for _ in cls._fields[2:]))

    def flat(self) -> tuple[Any, ...]:
        return *self.head, *self.support, *self[2:]

    def request(self, results: "Results") -> tuple[_native.ScoreRequest, tuple[Any, ...]]:
        """What isologit_score is asked to write into the results, and what must outlive that."""
        request = _native.ScoreRequest(has_ignore_index=1, ignore_index=self.ignore_index)
        self.head.set_rows(request)
        several = self.token_ids is not None and self.token_ids.ndim == 2
        if several and "logprobs" in self.outputs:
            request.ids_per_row = self.token_ids.shape[1]
            request.ids, request.ids_logprobs = _inputs.pointer(self.token_ids), _inputs.pointer(results.logprobs)
        elif self.token_ids is not None and not several:
            request.token_ids = _inputs.pointer(self.token_ids)
        for name in self.outputs:
            if not (several and name == "logprobs"):
                setattr(request, name, _inputs.pointer(getattr(results, name)))
        if self.top_k:
            request.top_k = self.top_k
            request.top_k_ids = _inputs.pointer(results.top_k_ids)
            request.top_k_logprobs = _inputs.pointer(results.top_k_logprobs)
        if self.summaries:
            request.summaries = _inputs.pointer(results.summaries)
        return request, self.support.set_support(request)


class Results(NamedTuple):
    """Of N rows, empty where not asked for; counts [8]: what Report.of reads. summaries has a row more, for a
    fingerprint of the operands."""

    logprobs: Array
    lse: Array
    entropy: Array
    argmax: Array
    rank: Array
    raw_logprobs: Array
    sum_p2: Array
    log_kept: Array
    mean_logits: Array
    top_k_ids: Array
    top_k_logprobs: Array
    summaries: Array
    counts: Array

    @classmethod
    def zeros(cls, args: ScoreArgs) -> "Results":
        hidden = args.head.hidden
        rows = hidden.shape[0]
        shapes = {name: (rows,) if name in args.outputs else (0,) for name in OUTPUTS}
        if "logprobs" in args.outputs:
            shapes["logprobs"] = tuple(args.token_ids.shape)
        top_k = (rows, args.top_k) if args.top_k > 0 else (0,)
        return cls(
            *(_inputs.zeros(hidden, shapes[name], dtype) for name, dtype in OUTPUTS.items()),
            _inputs.zeros(hidden, top_k, "int64"),
            _inputs.zeros(hidden, top_k, "float32"),
            _inputs.zeros(hidden, (rows + 1, _native.SUMMARY_DOUBLES) if args.summaries else (0,), "float64"),
            _inputs.zeros(hidden, (len(_native.Report._fields),), "int64"),
        )

    def scores(self, args: ScoreArgs, lead: tuple[int, ...]) -> Scores:
        """In the shape of the rows."""
        found = {name: getattr(self, name).reshape(lead) for name in args.outputs if name != "logprobs"}
        if "logprobs" in args.outputs:
            found["logprobs"] = self.logprobs.reshape((*lead, *args.token_ids.shape[1:]))
        if args.top_k:
            found["top_k_ids"] = self.top_k_ids.reshape((*lead, args.top_k))
            found["top_k_logprobs"] = self.top_k_logprobs.reshape((*lead, args.top_k))
        return Scores(**found, counts=self.counts)


def run(args: ScoreArgs, peers: _native.PeersCalls | None = None) -> Results:
    """isologit_score, or isologit_score_given."""
    head, results = args.head.native(), Results.zeros(args)
    request, keep_alive = args.request(results)
    counts = _native.score(head, request, given=args.head.weight is None, **args.head.options(peers))
    _inputs.fill(results.counts, counts)
    del keep_alive
    return results


def score_args(
    hidden: Array,
    weight: Array,
    token_ids: Any,
    *,
    ignore_index: int,
    mask: Array | None,
    kept: Iterable[Sequence[int]] | None,
    banned: Iterable[Sequence[int]] | None,
    outputs: Sequence[str],
    top_k: int,
    **head_options: Any,
) -> ScoreArgs:
    """Of what `score` is given; hidden is an array or a tensor."""
    head = HeadArgs.of(hidden, weight, **head_options)
    support = SupportArgs.of(hidden, head.vocab_size, mask, kept, banned)
    ids = None if token_ids is None else _inputs.token_ids_of(token_ids, hidden)
    for name in outputs:
        if name not in OUTPUTS:
            raise ValueError(f"outputs: {name!r}; expected names of {', '.join(OUTPUTS)}")
        if name in _OF_A_TOKEN and ids is None:
            raise ValueError(f"outputs: {name!r} needs token_ids")
        if name in ("rank", "raw_logprobs") and ids.ndim == 2:
            raise ValueError(f"outputs: {name!r} needs one id a row; token_ids has {ids.shape[1]}")
    ignore_index = _numbers.integer(ignore_index, "ignore_index")
    top_k = _numbers.integer(top_k, "top_k", 0, MOST_TOP_K)
    return ScoreArgs(head, support, ids, ignore_index, list(outputs), top_k, False)


@documented
def score(
    hidden: Array,
    weight: Array,
    token_ids: Any = None,
    *,
    bias: Array | None = None,
    temperature: float | Array = 1.0,
    softcap: float | None = None,
    scale: float | None = None,
    divide: float | None = None,
    transform_order: str = "softcap_first",
    vocab_size: int | None = None,
    lora: Lora | None = None,
    ignore_index: int = -100,
    mask: Array | None = None,
    kept: Iterable[Sequence[int]] | None = None,
    banned: Iterable[Sequence[int]] | None = None,
    outputs: Sequence[str] = ("logprobs",),
    top_k: int = 0,
    arithmetic: str = "exact",
    gradients: str = "fast",
    dweight_accumulate: Any = None,
    threads: int = 0,
    processors: Iterable[int] | None = None,
    kernel: str = "",
    dtype: str | None = None,
) -> Scores:
    """What a language model's head says of given tokens, and of the distribution of each row.

    For each row of hidden the logits are z_v = sum over k of hidden_k weight_vk, + bias_v: the real number, rounded
    once to f32. Then come softcap, scale or divide, and temperature, each one rounding of the exact function of the f32
    value before it. p is the softmax of the last z over the support S. Every result is the real-number function of
    these z, rounded once: it does not depend on the batch, the order of sums, the number of threads or the kernel.
    CONTRACT.md tells the special rows.

    Parameters
    ----------
    <inputs>
    token_ids : int64, [...] or [..., K], optional
        The id, or the K ids, to score from each row; nothing is shifted. Ids from 0 to vocab_size - 1, or ignore_index.
    <head>
    ignore_index : int, default -100
        With one id a row, rows that have this one are not computed, and are 0 in every output. Of K ids those that are
        it have a logprob of 0.
    <support>
    <outputs>
    <run>
    <gradients>
    <threads>
    <dtype>

    Returns
    -------
    Scores
        A named tuple of arrays, or of tensors if hidden is one; None where not asked for. `.report` is the Report of
        the call: the kernel and the arithmetic that made the logits among others.

    <raises>

    Notes
    -----
    <gradient>
    """
    hidden = _inputs.as_floats(hidden, dtype)
    args = score_args(
        hidden,
        weight,
        token_ids,
        bias=bias,
        temperature=temperature,
        softcap=softcap,
        scale=scale,
        divide=divide,
        transform_order=transform_order,
        vocab_size=vocab_size,
        lora=lora,
        ignore_index=ignore_index,
        mask=mask,
        kept=kept,
        banned=banned,
        outputs=outputs,
        top_k=top_k,
        arithmetic=arithmetic,
        threads=threads,
        processors=processors,
        kernel=kernel,
        dtype=dtype,
    )
    if args.head.by_operator():
        from isologit import _torch

        results = _torch.score(args, gradients, dweight_accumulate)
    elif args.head.differentiates_f8():
        from isologit._torch import f8

        _inputs.refuse_gradients(dweight_accumulate)
        results = f8.score(args, gradients)
    else:
        _inputs.refuse_gradients(dweight_accumulate)
        results = run(args)
    return results.scores(args, tuple(hidden.shape[:-1]))


@documented
def linear_logprobs(
    hidden: Array,
    weight: Array,
    token_ids: Any,
    *,
    return_entropy: bool = False,
    return_lse: bool = False,
    top_k: int = 0,
    **options: Any,
) -> Scores:
    """Logprobs of token_ids, and whatever else of each row is asked for: `score` in short.

    logprob(t) = z_t - ln of the sum over the support of e^z, the real number of the f32 logits z, rounded once; nats.

    Parameters
    ----------
    <inputs>
    token_ids : int64, [...] or [..., K]
        The id, or the K ids, to score from each row; nothing is shifted.
    return_entropy, return_lse : bool, default False
        Whether to compute these as well.
    top_k : int, default 0
        Up to 1024: also the k ids with the greatest logits, and their logprobs.
    **options
        bias, temperature, softcap, scale, divide, transform_order, vocab_size, lora, ignore_index, mask, kept, banned,
        arithmetic, gradients, dweight_accumulate, threads, processors, kernel and dtype, as of `score`.

    Returns
    -------
    Scores
        logprobs [...] or [..., K]; entropy and lse [...]; top_k_ids and top_k_logprobs [..., k]; None where not asked
        for.

    Notes
    -----
    <gradient>
    """
    outputs = ("logprobs", *("entropy",) * return_entropy, *("lse",) * return_lse)
    return score(hidden, weight, token_ids, outputs=outputs, top_k=top_k, **options)
