"""Where a call runs, and in which order it transforms: of every function that makes logits, and of given ones."""

import os

import numpy as np
import pytest

import isologit
from isologit.partial import PartialScore

HIDDEN = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
WEIGHT = np.linspace(-2, 2, 28, dtype=np.float32).reshape(7, 4)
IDS = np.array([0, 3, 6])


def partial(hidden, weight, **options):
    score = PartialScore(hidden, IDS, vocab_size=len(weight), **options)
    score.absorb(weight)
    assert score.finish_round()
    return score.scores()


FUNCTIONS = {
    "score": lambda **options: isologit.score(HIDDEN, WEIGHT, IDS, **options),
    "linear_logprobs": lambda **options: isologit.linear_logprobs(HIDDEN, WEIGHT, IDS, **options),
    "logits": lambda **options: isologit.logits(HIDDEN, WEIGHT, return_report=True, **options),
    "sample": lambda **options: isologit.sample(HIDDEN, WEIGHT, seed=1, sequence_id=0, position=0, **options),
    "linear_cross_entropy": lambda **options: isologit.linear_cross_entropy(
        HIDDEN, WEIGHT, IDS, return_report=True, **options
    ),
    "PartialScore": lambda **options: partial(HIDDEN, WEIGHT, **options),
}
GIVEN = {
    "log_softmax": lambda **options: isologit.log_softmax(WEIGHT, **options),
    "logprobs_of_logits": lambda **options: isologit.logprobs_of_logits(WEIGHT[:3], IDS % 4, **options),
    "entropy_of_logits": lambda **options: isologit.entropy_of_logits(WEIGHT, **options),
    "lse_of_logits": lambda **options: isologit.lse_of_logits(WEIGHT, **options),
}


def report_of(result):
    return result.report if hasattr(result, "report") else result[1]


@pytest.fixture
def one_processor():
    """The calling thread is bound to one of several, as engines bind theirs."""
    everywhere = os.sched_getaffinity(0)
    if len(everywhere) < 2:
        pytest.skip("needs two processors")
    os.sched_setaffinity(0, {min(everywhere)})
    yield everywhere
    os.sched_setaffinity(0, everywhere)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_pinned_thread_runs_where_it_is_told_and_stays_pinned(name, one_processor):
    report = report_of(FUNCTIONS[name]())
    assert (report.threads, report.processors) == (1, 1)
    report = report_of(FUNCTIONS[name](processors=one_processor))
    assert report.processors == len(one_processor) and report.threads > 1
    assert os.sched_getaffinity(0) == {min(one_processor)}


@pytest.mark.parametrize("name", GIVEN)
def test_given_logits_run_where_they_are_told(name, one_processor):
    assert GIVEN[name](processors=one_processor).tobytes() == GIVEN[name]().tobytes()
    assert os.sched_getaffinity(0) == {min(one_processor)}


@pytest.mark.parametrize("name", [*FUNCTIONS, *GIVEN])
@pytest.mark.parametrize(
    ("processors", "message"),
    [
        ([], r"processors: \[\]; expected at least one"),
        ([0, -1], r"processors: \[0, -1\]; expected"),
        ([2**40], r"processors: \[1099511627776\]; expected"),
        ([2**20 - 1], "processors: 1048575 is not one that the system lets this process run on"),
    ],
)
def test_processors_that_cannot_be_used(name, processors, message):
    with pytest.raises(ValueError, match=message):
        {**FUNCTIONS, **GIVEN}[name](processors=processors)


def test_tensors_run_where_they_are_told(one_processor):
    torch = pytest.importorskip("torch")
    hidden, weight = (torch.from_numpy(x).requires_grad_() for x in (HIDDEN, WEIGHT))
    ids = torch.from_numpy(IDS)
    here = isologit.score(hidden, weight, ids)
    there = isologit.score(hidden, weight, ids, processors=one_processor)
    assert (here.report.processors, there.report.processors) == (1, len(one_processor))
    gradients = [torch.autograd.grad(scores.logprobs.sum(), (hidden, weight)) for scores in (here, there)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert os.sched_getaffinity(0) == {min(one_processor)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_order_of_transforms(name):
    """tanh is 1 far out: 1 times the scale, or the cap itself."""
    options = {"softcap": 1.0, "scale": 2.0**-60}
    far = {"hidden": HIDDEN, "weight": WEIGHT * np.float32(2.0**40)}
    capped = isologit.logits(**far, **options)
    scaled = isologit.logits(**far, **options, transform_order="scale_first")
    plain = isologit.logits(**far)
    assert np.array_equal(capped, np.sign(plain) * np.float32(2.0**-60))
    assert np.array_equal(scaled, plain * np.float32(2.0**-60))  # tanh of 2^-18 is 2^-18, to f32
    with pytest.raises(ValueError, match="transform_order is 'last'; expected 'softcap_first' or 'scale_first'"):
        FUNCTIONS[name](transform_order="last", **options)


def test_a_module_hands_on_its_order():
    torch = pytest.importorskip("torch")
    hidden, weight = torch.from_numpy(HIDDEN), torch.nn.Parameter(torch.from_numpy(WEIGHT))
    ids = torch.from_numpy(IDS)
    transforms = {"softcap": 1.0, "divide": 0.3, "transform_order": "scale_first"}
    module = isologit.nn.LMHead(weight, **transforms)
    got = module.logprobs(hidden, ids).logprobs
    assert torch.equal(got, isologit.linear_logprobs(hidden, weight, ids, **transforms).logprobs)
    assert not torch.equal(got, isologit.linear_logprobs(hidden, weight, ids, softcap=1.0, divide=0.3).logprobs)
    assert "transform_order=scale_first" in repr(module)
