"""isologit.partial: the same results, those of rational arithmetic and mpmath, whatever the split."""

import gc
import random
import sys
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
from test_score import ROWS, SIZE, TEMPERATURES, TOP_K, VOCAB, as_numpy, head, same, wanted_of  # noqa: E402

import isologit  # noqa: E402
from isologit import _endings, _native  # noqa: E402
from isologit._score import OUTPUTS  # noqa: E402
from isologit.partial import PartialScore  # noqa: E402

# first ids of the parties' shards; equal ones are empty shards
SPLITS = {
    "whole": [0, 30],
    "halves": [0, 15, 30],
    "uneven": [0, 1, 28, 30],
    "empty ones": [0, 0, 11, 11, 30, 30],
    "many": list(range(0, 31, 3)),
}


def all_rounds(parties, shards, order):
    """Each party absorbs its shards, a list of (weight, first id, options), and merges the others' states."""
    for rounds in range(1, 10):
        states = []
        for party, own in zip(parties, shards, strict=True):
            for weight, first_id, options in own:
                party.absorb(weight, first_id, **options)
            states.append(party.state())
        for p, party in enumerate(parties):
            others = [state for q, state in enumerate(states) if q != p]
            order.shuffle(others)
            for state in others:
                party.merge(state)
        finished = {party.finish_round() for party in parties}
        assert len(finished) == 1, "parties do not agree"
        if finished.pop():
            return rounds, states


def parts(weight, bounds):
    return [[(weight[first:last], first, {})] for first, last in zip(bounds, bounds[1:], strict=False)]


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("split", SPLITS)
def test_every_output_of_every_split(split, kind):
    hidden, weight, ids, mask = head(6)
    wanted = wanted_of(hidden, weight, ids[:, None], mask)
    temperature = torch.tensor(TEMPERATURES)
    if kind == "arrays":
        hidden, weight, ids, mask, temperature = (*as_numpy(hidden, weight, ids, mask), temperature.numpy())
    shards = parts(weight, SPLITS[split])
    # And a party without a shard, and one whose rows are all padding.
    shards += [[], [(weight[:5], VOCAB, {"vocab_size": 0})]]
    parties = [
        PartialScore(
            hidden,
            ids,
            vocab_size=VOCAB,
            scale=0.375,
            temperature=temperature,
            mask=mask,
            outputs=list(OUTPUTS),
            top_k=TOP_K,
        )
        for _ in shards
    ]
    rounds, _ = all_rounds(parties, shards, random.Random(1))
    assert rounds == 2  # one in front for rank
    for party in parties:
        got = party.scores()
        for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs"):
            assert same(getattr(got, name), wanted[name]), name
        assert type(got.lse) is (np.ndarray if kind == "arrays" else torch.Tensor)
        assert got.report.rows == ROWS and got.report.arithmetic == "exact"


def test_several_shards_of_one_party_with_bias_padding_and_bits():
    hidden, weight, ids, mask = head(7)
    mask[:] = True
    wanted = wanted_of(hidden, weight, ids[:, None], mask)
    bits = [x.view(np.uint16) for x in as_numpy(hidden, weight)]
    padded = np.concatenate([bits[1][:8], np.full((3, SIZE), 0x7FC0, np.uint16)])
    bias = np.zeros(VOCAB, np.float32)
    party = PartialScore(
        bits[0].reshape(2, 2, SIZE),
        ids.numpy().reshape(2, 2),
        vocab_size=VOCAB,
        scale=0.375,
        temperature=np.array(TEMPERATURES, np.float32).reshape(2, 2),
        dtype="bf16",
    )
    shards = [(bits[1][8:], 8, {"bias": bias[8:]}), (padded, 0, {"vocab_size": 8, "bias": bias[:8]})]
    assert all_rounds([party], [shards], random.Random(2))[0] == 1
    assert party.scores().logprobs.shape == (2, 2) and same(party.scores().logprobs, wanted["logprobs"])


def test_a_state_does_not_grow_with_the_vocabulary():
    sizes = []
    for vocab in (100, 5000):
        hidden, weight = np.ones((3, 4), np.float32), np.zeros((vocab, 4), np.float32)
        party = PartialScore(hidden, [0, 1, 2], vocab_size=vocab)
        party.absorb(weight)
        sizes.append(len(party.state()))
    assert sizes[0] == sizes[1] < 1000


def test_states_that_do_not_fit_are_refused_and_change_nothing():
    hidden, weight, ids, _ = head(8)
    names = [kernel.name for kernel in isologit.kernels() if kernel.runnable and kernel.arithmetic == "fast"]
    fast = [PartialScore(hidden, ids, vocab_size=VOCAB, arithmetic="fast", kernel=name) for name in names]
    exact = PartialScore(hidden, ids, vocab_size=VOCAB)
    exact.absorb(weight)
    before = exact.state()
    states = [party.state() for party in (*fast, exact)]
    for p, party in enumerate((*fast, exact)):
        for q, state in enumerate(states):
            if p != q:
                with pytest.raises(ValueError, match="a state of another arithmetic"):
                    party.merge(state)
    for state, message in (
        (b"", "not a state"),
        (b"something else", "not a state"),
        (before[:-1], "is damaged"),
        (before + b"\0", "1 bytes too many"),
        (PartialScore(hidden[:2], ids[:2], vocab_size=VOCAB).state(), "2 rows where this party has 4"),
        (PartialScore(hidden, ids, vocab_size=VOCAB, outputs=["rank"]).state(), "another round"),
    ):
        with pytest.raises(ValueError, match=message):
            exact.merge(state)
    assert exact.state() == before and exact.finish_round()


def test_what_is_refused():
    hidden, weight, ids, _ = head(9)
    with pytest.raises(ValueError, match=r"token_ids\[2\]"):
        PartialScore(hidden, [0, 1, VOCAB, 3], vocab_size=VOCAB)
    with pytest.raises(ValueError, match="outputs: 'probs'"):
        PartialScore(hidden, ids, vocab_size=VOCAB, outputs=["probs"])
    party = PartialScore(hidden, ids, vocab_size=VOCAB)
    with pytest.raises(ValueError, match="scores: there are none yet"):
        party.scores()
    with pytest.raises(ValueError, match=r"30 ids from 20 on; expected ids of the vocabulary \[0, 30\)"):
        party.absorb(weight, 20)
    with pytest.raises(ValueError, match=r"hidden is \[4, 12\], weight is \[30, 11\]"):
        party.absorb(weight[:, 1:])
    with pytest.raises(TypeError, match="weight is an array"):
        party.absorb(as_numpy(weight)[0])
    party.absorb(weight[:29])
    with pytest.raises(ValueError, match="the shards held 29 ids of a vocabulary of 30"):
        party.finish_round()


def test_what_is_given_lives_as_long_as_it_is_needed():
    weight = np.ones((VOCAB, SIZE), np.float32)
    parties = []
    for n in range(50):
        hidden = np.full((2, SIZE), n, np.float32)
        mask = np.ones((2, VOCAB), bool)
        mask[:, 20:] = False
        parties.append(PartialScore(hidden, [1, 2], vocab_size=VOCAB, mask=mask, outputs=["lse"]))
        del hidden, mask
        gc.collect()
    for n, party in enumerate(parties):
        party.absorb(weight)
        assert party.finish_round()
        assert same(party.scores().lse, [np.float32(n * SIZE + np.log(20.0))] * 2)


def test_a_handler_that_raises_in_a_finalizer_loses_no_memory(monkeypatch):
    """A signal's handler may raise wherever Python runs, as a trace function may."""
    ended, unraisable, end = [], [], _native._library.isologit_partial_end

    def recorded(handle):
        ended.append(handle.value)
        end(handle)

    monkeypatch.setattr(_native._library, "isologit_partial_end", recorded)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    class Interruption(Exception):
        pass

    def interrupt(*_):
        raise Interruption

    def partial():
        return PartialScore(np.ones((1, 2), np.float32), vocab_size=3, outputs=("lse",))

    score = partial()
    former = sys.gettrace()
    sys.settrace(interrupt)
    try:
        del score
    finally:
        sys.settrace(former)
    assert not ended and unraisable[0].exc_type is Interruption
    score = partial()
    del score
    assert len(ended) == len(set(ended)) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_end_that_a_signal_stops_is_made_up_for_and_leaves_nothing(monkeypatch):
    class Owner:
        pass

    def stopped(_):
        raise KeyboardInterrupt

    ended, known = [], len(weakref.finalize._registry)
    owner = Owner()
    with monkeypatch.context() as patch:
        patch.setattr(_endings, "_end_what_is_due", stopped)
        _endings.end_with(owner, ended.append, 1)
    assert len(weakref.finalize._registry) == known  # which would not be left when a signal comes first of all
    del owner
    gc.collect()
    assert ended == []
    other = Owner()
    _endings.end_with(other, ended.append, 2)
    del other
    gc.collect()
    assert sorted(ended) == [1, 2]
    assert not _endings._endings and not _endings._due
