"""The same functions of a vocabulary that is split over the ranks of a torch.distributed group, or over blocks.

Every rank of the group calls at the same time, with its own rows of the weight (or its own columns of logits), and all
have the results of the whole: the same bits as one process, whatever the split. Ranks exchange states of O(rows) bytes,
never logits; backward exchanges the sums of dhidden.

Tensors may be on any device of torch, all of a rank's on the same one: logits are made there, a few rows at a time, and
folded on the CPU (docs/parallel.md).
"""

from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from isologit import _cross_entropy, _inputs, _native, _numbers, _of_logits_torch
from isologit._sample import SampleArgs, Samples, draws_of
from isologit._score import Results, Scores, score_args
from isologit._support import SupportArgs
from isologit._torch import check_accumulator
from isologit.parallel import _devices, _elsewhere, _rows
from isologit.parallel._exchange import ALONE, Exchange, ParallelError
from isologit.parallel._functions import OfLogits, Score, ScoreCall, checksums, counts_of
from isologit.parallel._functions import sample as _sample
from isologit.parallel._rows import Rows
from isologit.parallel._shard import Local, facts_of_shard, local, of_each, place

__all__ = [
    "ALONE",
    "ParallelError",
    "entropy_of_logits",
    "linear_cross_entropy",
    "linear_logprobs",
    "logprobs_of_logits",
    "lse_of_logits",
    "sample",
    "score",
]

_SCORE = {
    "temperature": 1.0, "softcap": None, "scale": None, "divide": None, "transform_order": "softcap_first",
    "mask": None, "kept": None, "banned": None, "arithmetic": "exact", "threads": 0, "processors": None, "kernel": "",
}  # fmt: skip
_OF_ROWS = ("mask", "kept", "banned")


def _options(given: dict[str, Any], defaults: dict[str, Any], what: str) -> dict[str, Any]:
    for name in given:
        if name not in defaults:
            raise TypeError(f"{what}() got an unexpected keyword argument {name!r}")
    return {**defaults, **given}


class _Prepared:
    """Of hidden, the rows and the vocabulary of a call."""

    def __init__(self, exchange: Exchange, own: Local, hidden: Tensor, rows: str, options: dict[str, Any]) -> None:
        if not isinstance(hidden, Tensor):
            raise TypeError(f"hidden is a {type(hidden).__name__}; expected a tensor")
        _rows.check(rows)
        _devices.refuse_lora(own, hidden)
        if _devices.are_several(own, hidden):
            rows = "same"  # of one process
        else:
            for weight, bias in zip(own.weights, own.biases, strict=True):
                _inputs.require_one_device(hidden=hidden, weight=weight, bias=bias)
        weight = own.weights[0]  # any other has its width
        if hidden.ndim < 1 or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
            layout = ". A head that is split on H is not taken: gather it, or split it by rows of the vocabulary"
            split = weight.ndim == 2 and weight.shape[1] * exchange.size == hidden.shape[-1]
            raise ValueError(
                f"hidden is {list(hidden.shape)}, weight is {list(weight.shape)}; expected [..., H] and [v, H]"
                f"{layout if split else ''}"
            )
        self.lead = hidden.shape[:-1]
        self.vocab_size, counts = own.vocab_size, None
        if rows == "own":
            for name in _OF_ROWS:
                if options.get(name) is not None:
                    raise NotImplementedError(f"{name} is given and rows is 'own'; expected rows='same' beside it")
        if rows == "own" or self.vocab_size is None:
            everyone = exchange.agree(own_weight=own.rows, own_hidden=self.lead.numel(), rows=rows)
            if self.vocab_size is None:
                self.vocab_size = sum(facts["own_weight"] for facts in everyone)
            if rows == "own":
                counts = [facts["own_hidden"] for facts in everyone]
        self.vocab_size = _numbers.integer(self.vocab_size, "vocab_size")
        self.rows = Rows(counts, exchange.rank)
        if options["mask"] is not None and options["mask"].ndim > 1:
            options["mask"] = options["mask"].reshape(-1, options["mask"].shape[-1])
        flat = hidden.detach().reshape(self.lead.numel(), hidden.shape[-1])
        self.hidden = self.rows.gather(exchange, flat)
        # Arguments of other shapes are told of in the caller's terms, before they become flat.
        temperature = self.rows.gather_values(exchange, _inputs.per_row(options["temperature"], hidden, "temperature"))
        self.temperature = temperature if len(temperature) == len(self.hidden) else temperature[0]

    def reshaped(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(*self.lead, *tensor.shape[1:])


def score(
    hidden: Tensor,
    weight: Any,
    token_ids: Any = None,
    *,
    group: Any = None,
    first_id: int | None = None,
    vocab_size: int | None = None,
    rows: str = "same",
    bias: Any = None,
    lora: Any = None,
    outputs: Any = ("logprobs",),
    top_k: int = 0,
    ignore_index: int = -100,
    gradients: str = "fast",
    dweight_accumulate: Any = None,
    **options: Any,
) -> Scores:
    """isologit.score of a weight whose rows lie on the ranks of a group.

    Parameters
    ----------
    hidden : torch.Tensor, [..., H]
    weight : torch.Tensor [v, H], DTensor [V, H] with Shard(0), or a module with weight and shard_indices (vLLM's)
        This rank's rows. v may be 0, and differ from rank to rank. A list of tensors [v, H] is blocks whose rows follow
        one another; bias and dweight_accumulate are then lists of as many. A module's bias has as many rows as its
        weight.
    token_ids : int64, [...] or [..., K], optional
        Ids of the whole vocabulary, or ignore_index.
    group : torch.distributed.ProcessGroup, optional
        The ranks that call; by default that of the DTensor, else all. parallel.ALONE: this process has the whole
        vocabulary, and needs no process group.
    first_id : int, optional
        The id of the first row of tensors. By default the ranks' rows follow one another in the order of ranks.
    vocab_size : int, optional
        Of the whole vocabulary; rows of the weight past it are padding. By default all rows are ids.
    rows : {"same", "own"}, default "same"
        "same": every rank gives the same rows of hidden, token_ids and temperature. "own": each rank gives rows of its
        own, any number of them, as under FSDP, or where a sequence is split; it has results of these alone. Hidden
        states are then gathered.
    bias : torch.Tensor [v] or DTensor, optional
        Of these rows.
    lora : (a, b, scale), optional
        A low-rank addition to the weight: a [r, H], the same on all ranks, b [v, r] of this rank's rows, which is as
        weight is (a DTensor, a list), and a number.
    **options
        temperature, softcap, scale, divide, transform_order, mask, kept, banned, arithmetic, threads, processors and
        kernel, as of isologit.score; of the whole vocabulary. mask, kept and banned with rows="same" only.

    Returns
    -------
    Scores
        As isologit.score of the whole weight, with the same bits.

    Raises
    ------
    ParallelError
        A rank died, failed, was later than the group's time-out, or called with something else.

    Notes
    -----
    Differentiable in hidden, weight, bias and the factors of lora, as isologit.score is. All ranks must run backward,
    with the same upstream (rows="same"), or with that of their own rows. Each has the gradient of its rows of the
    weight and of b. That of its hidden states is of all of the vocabulary, and that of a of all rows as well: neither
    must be summed over the group again.
    """
    options = _options(options, _SCORE, "score")
    own = local(weight, bias, lora, first_id, vocab_size, group)
    if _devices.are_several(own, hidden) and own.needs_gradients(hidden):
        named = {"outputs": outputs, "top_k": top_k, "ignore_index": ignore_index, "gradients": gradients}
        place = {"first_id": first_id, "vocab_size": vocab_size, "dweight_accumulate": dweight_accumulate}
        return _devices.of_copies(score, own, hidden, token_ids, **place, **named, **options)
    with Exchange("isologit.parallel.score", own.group, own.weights[0].device) as exchange:
        prepared = _Prepared(exchange, own, hidden, rows, options)
        given = dweight_accumulate
        if given is not None and not isinstance(weight, (list, tuple)):
            given = [given]
        buffers = of_each(given, "dweight_accumulate", own.weights)
        for buffer, block in zip(buffers, own.weights, strict=True):
            check_accumulator(buffer, block)
        ids = None if token_ids is None else _inputs.token_ids_of(token_ids, hidden)
        first, first_bias = _devices.head_of(own, hidden)
        args = score_args(
            prepared.hidden,
            first,
            prepared.rows.gather(exchange, ids),
            bias=first_bias,
            lora=own.lora_of(0),
            vocab_size=prepared.vocab_size,
            ignore_index=ignore_index,
            outputs=outputs,
            top_k=top_k,
            **{**options, "temperature": prepared.temperature},
        )
        if _devices.are_several(own, hidden):
            results = _devices.score(exchange, args, own)
            counts = results.counts
        else:
            needs = own.needs_gradients(hidden)
            call = ScoreCall(exchange, args, prepared.rows, own, gradients, buffers, needs)
            results = Score.apply(call, hidden, *own.leaves)
            counts = counts_of(call.results)
    by_name = dict(zip(Results._fields, results, strict=False))
    top = ("top_k_ids", "top_k_logprobs") if args.top_k else ()
    found = {name: prepared.reshaped(by_name[name]) for name in (*args.outputs, *top)}
    return Scores(**found, counts=counts)


def linear_logprobs(
    hidden: Tensor,
    weight: Any,
    token_ids: Any,
    *,
    return_entropy: bool = False,
    return_lse: bool = False,
    **options: Any,
) -> Scores:
    """Logprobs of token_ids, and entropy and lse where asked for: `score` in short, with its other arguments."""
    outputs = ("logprobs", *("entropy",) * return_entropy, *("lse",) * return_lse)
    return score(hidden, weight, token_ids, outputs=outputs, **options)


def linear_cross_entropy(hidden: Tensor, weight: Any, target: Any, **options: Any) -> Any:
    """isologit.linear_cross_entropy with the arguments of `score`. Of rows="own" a mean is over this rank's."""
    return _cross_entropy.losses_by(score, hidden, weight, target, **options)


def sample(
    hidden: Tensor,
    weight: Any,
    *,
    seed: Any,
    sequence_id: Any,
    position: Any,
    group: Any = None,
    first_id: int | None = None,
    vocab_size: int | None = None,
    rows: str = "same",
    bias: Any = None,
    lora: Any = None,
    min_p: Any = 0.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    **options: Any,
) -> Samples:
    """isologit.sample of a weight whose rows lie on the ranks of a group, with the arguments of `score` for that.

    Every rank has all draws; with rows="own" those of its own rows.
    """
    options = _options(options, _SCORE, "sample")
    own = local(weight, bias, lora, first_id, vocab_size, group)
    with Exchange("isologit.parallel.sample", own.group, own.weights[0].device) as exchange:
        prepared = _Prepared(exchange, own, hidden, rows, options)
        mask, kept, banned = (options.pop(name) for name in _OF_ROWS)
        first, first_bias = _devices.head_of(own, hidden)
        head = _inputs.HeadArgs.of(
            prepared.hidden,
            first,
            bias=first_bias,
            lora=own.lora_of(0),
            vocab_size=prepared.vocab_size,
            **{**options, "temperature": prepared.temperature},
        )
        draws = draws_of(hidden, seed, sequence_id, position, min_p, top_k, top_p)
        gathered = [prepared.rows.gather_values(exchange, values) for values in draws]
        support = SupportArgs.of(prepared.hidden, head.vocab_size, mask, kept, banned)
        args = SampleArgs(head, support, *gathered)
        if _devices.are_several(own, hidden):
            found = _devices.sample(exchange, args, own)
        else:
            found = _sample(exchange, args, prepared.rows, own)
    return Samples(*map(prepared.reshaped, found[:-1]), found.counts)


def logprobs_of_logits(logits: Tensor, token_ids: Any, *, ignore_index: int = -100, **options: Any) -> Tensor:
    """isologit.logprobs_of_logits of logits [..., v] whose last dimension is this rank's ids, over `group`.

    v is at least 1. group, first_id and vocab_size as of `score`; temperature, threads, processors and kernel as of
    isologit.logprobs_of_logits. Differentiable: each rank has the gradient of its own logits.
    """
    return _of_logits_as("logprobs", logits, token_ids, ignore_index, **options)


def entropy_of_logits(logits: Tensor, **options: Any) -> Tensor:
    """isologit.entropy_of_logits, likewise."""
    return _of_logits_as("entropy", logits, None, -100, **options)


def lse_of_logits(logits: Tensor, **options: Any) -> Tensor:
    """isologit.lse_of_logits, likewise."""
    return _of_logits_as("lse", logits, None, -100, **options)


def _of_logits_as(
    output: str,
    logits: Tensor,
    token_ids: Any,
    ignore_index: int,
    *,
    group: Any = None,
    first_id: int | None = None,
    vocab_size: int | None = None,
    temperature: Any = 1.0,
    threads: int = 0,
    processors: Any = None,
    kernel: str = "",
) -> Tensor:
    device = logits.device if isinstance(logits, Tensor) else torch.device("cpu")
    with Exchange(f"isologit.parallel.{output}_of_logits", group, device) as exchange:
        if not isinstance(logits, Tensor) or logits.ndim < 1:
            raise TypeError(f"logits: {type(logits).__name__}; expected a tensor [..., v]")
        own = temperature if isinstance(temperature, Tensor) and temperature.ndim > 0 else None  # others are numbers
        _inputs.require_one_device(logits=logits, token_ids=token_ids, temperature=own)
        ignore_index = _numbers.integer(ignore_index, "ignore_index")
        running = _native.Running(*_inputs.run_options(threads, processors, kernel))
        lead, columns = logits.shape[:-1], logits.shape[-1]
        if vocab_size is None:
            vocab_size = sum(facts["own_columns"] for facts in exchange.agree(own_columns=columns))
        temperatures = _of_logits_torch.temperatures_of(temperature, logits)
        ids = None if token_ids is None else _inputs.token_ids_of(token_ids, logits)
        shape = lead if ids is None else (*lead, *ids.shape[1:])
        ids = ids if ids is None or ids.ndim == 2 else ids[:, None]
        everyone = exchange.agree(
            **facts_of_shard([columns], None if first_id is None else [first_id], vocab_size),
            **{"the rows of logits": list(lead), "ignore_index": ignore_index},
            **{"needs gradients": is_grad_enabled() and logits.requires_grad, "logits are on the CPU": logits.is_cpu},
            **checksums(token_ids=ids, temperature=temperatures),
        )
        for rank, facts in enumerate(everyone):
            if facts["own_rows"] == [0]:
                exchange.fail(f"rank {rank} has logits of no id; expected those of at least one on every rank")
        (shard,) = place(exchange, everyone, vocab_size)
        flat = logits.reshape(lead.numel(), columns)[:, : shard.count]
        flat = flat if shard.count <= 1 or flat.stride(1) == 1 else flat.contiguous()
        step = _elsewhere.rows_at_a_time(everyone)
        found = OfLogits.apply(flat, temperatures, ids, ignore_index, output, running, exchange, shard, step)
    return found.reshape(shape)
