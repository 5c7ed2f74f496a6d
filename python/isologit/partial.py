"""Scores of a vocabulary that is split: over blocks of weight, processes or machines."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from isologit import _inputs, _native
from isologit._docstrings import documented
from isologit._inputs import Array, Lora
from isologit._score import Results, Scores, score_args


@documented
class PartialScore:
    """A score made in rounds, with the same bits as `isologit.score` on the whole weight, whatever the split.

    Every party begins with the same arguments. In each round it absorbs its own shards, hands its state to the others,
    merges theirs in any order and finishes the round::

        score = PartialScore(hidden, token_ids, vocab_size=V)
        while True:
            score.absorb(shard, first_id)              # none, one or several
            for state in exchange(score.state()):      # those of the other parties
                score.merge(state)
            if score.finish_round():
                break
        score.scores().logprobs

    All parties then agree on whether another round is needed, and each has all results. There is one round, one more in
    front where rank is asked for, and further ones only for rows that f64 could not decide. A state is O(rows) bytes,
    never logits. There is no gradient. One thread at a time may use an object; after an error of absorb or finish_round
    it is of no more use, while a refused merge changes nothing.

    Parameters
    ----------
    <hidden>
    token_ids : int64, [...] or [..., K], optional
        The id, or the K ids, to score from each row: ids of the whole vocabulary, or ignore_index.
    vocab_size : int
        Of the whole vocabulary.
    <transforms>
    ignore_index : int, default -100
        As of `isologit.score`.
    <support>
    <outputs>
    <run>
    <threads>
    <dtype>

    <raises>
    """

    def __init__(
        self,
        hidden: Array,
        token_ids: Any = None,
        *,
        vocab_size: int,
        temperature: float | Array = 1.0,
        softcap: float | None = None,
        scale: float | None = None,
        divide: float | None = None,
        transform_order: str = "softcap_first",
        ignore_index: int = -100,
        mask: Array | None = None,
        kept: Iterable[Sequence[int]] | None = None,
        banned: Iterable[Sequence[int]] | None = None,
        outputs: Sequence[str] = ("logprobs",),
        top_k: int = 0,
        arithmetic: str = "exact",
        threads: int = 0,
        processors: Iterable[int] | None = None,
        kernel: str = "",
        dtype: str | None = None,
    ) -> None:
        hidden = _inputs.as_floats(hidden, dtype)
        hidden = hidden.detach() if _inputs.is_tensor(hidden) else hidden
        self._lead = tuple(hidden.shape[:-1])
        self._dtype = dtype
        self._args = score_args(
            hidden,
            hidden.reshape(math.prod(self._lead), hidden.shape[-1])[:0],  # of the weight only its width matters
            token_ids,
            bias=None,
            temperature=temperature,
            softcap=softcap,
            scale=scale,
            divide=divide,
            transform_order=transform_order,
            vocab_size=vocab_size,
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
        self._results = Results.zeros(self._args)
        request, self._keep_alive = self._args.request(self._results)
        self._partial = _native.Partial(self._args.head.native(), request, **self._args.head.options())
        self._finished = False

    def absorb(
        self,
        weight: Array,
        first_id: int = 0,
        *,
        bias: Array | None = None,
        vocab_size: int | None = None,
        lora: Lora | None = None,
    ) -> None:
        """Adds what this round needs of a shard: rows of the weight that are ids of the vocabulary one after the other.

        Parameters
        ----------
        weight : as hidden, [v, H]
            Read in place, during the call only. v may be 0.
        first_id : int, default 0
            The id of its first row.
        bias : as hidden, [v], optional
            Of these ids.
        vocab_size : int, default v
            How many of the rows are ids, when the last ones are padding; 0: all of them are.
        lora : (a, b, scale), optional
            As of `isologit.score`, b with the rows of this shard. All shards must have the same a and scale.
        """
        head = self._args.head.with_weight(weight, bias, vocab_size, self._dtype, lora)
        self._partial.absorb(head.native(), first_id)

    def state(self) -> bytes:
        """This round's sums over the shards absorbed and the states merged so far, for `merge` of the other parties.

        For processes of the same version and byte order. Its size grows with the rows, K and top_k alone.
        """
        return self._partial.state()

    def merge(self, state: bytes) -> None:
        """Adds another party's state. One's own must not be.

        Raises
        ------
        ValueError
            The bytes are not a state of this round and these arguments, or come from another kernel of fast arithmetic.
        """
        self._partial.merge(bytes(state))

    def finish_round(self) -> bool:
        """Whether all results are there; else another round is needed.

        Raises
        ------
        ValueError
            The shards of all parties did not hold the whole vocabulary.
        """
        self._finished = self._partial.finish_round()
        return self._finished

    def scores(self) -> Scores:
        """The results, as `isologit.score` gives them; the counts of its report are this party's.

        Raises
        ------
        ValueError
            finish_round has not returned True yet.
        """
        if not self._finished:
            raise ValueError("scores: there are none yet; expected finish_round() to have returned True")
        _inputs.fill(self._results.counts, self._partial.counts())
        return self._results.scores(self._args, self._lead)
