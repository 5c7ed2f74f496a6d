"""A signal's handler that raises, such as that of Ctrl-C, ends every phase of every verb within a fifth of a second."""

import pytest
from interrupted import AMPLE, best_seconds_after_signal

torch = pytest.importorskip("torch")
import isologit  # noqa: E402
from isologit import forward  # noqa: E402


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def backward_of(result):
    """Of a graph that outlives an interruption."""
    upstream = normal(*result.shape)
    return lambda: result.backward(upstream, retain_graph=True)


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What torch imports when operators and their gradients first run: an import that is interrupted stays broken."""
    (hidden, weight), ids = leaves(normal(1, 4), normal(8, 4)), torch.zeros(1, dtype=torch.int64)
    isologit.linear_logprobs(hidden, weight, ids).logprobs.sum().backward()
    isologit.log_softmax(hidden).sum().backward()
    isologit.score(hidden, weight, ids)
    isologit.sample(hidden, weight, seed=1, sequence_id=2, position=[0])
    forward.attention(*leaves(*(normal(1, 2, 4) for _ in range(3))), scale=1.0).sum().backward()


def leaves(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


def head(rows, vocab, size=1024):
    return normal(rows, size), normal(vocab, size).contiguous()


def gradients(which):
    """Of linear_logprobs: fast or exact ones."""

    def prepare(**run):
        hidden, weight = leaves(*head(*((400, 20000) if run["kernel"] == "" else (8, 2000, 64))))
        ids = torch.zeros(len(hidden), dtype=torch.int64)
        scored = isologit.linear_logprobs(hidden, weight, ids, gradients=which, **run)
        return backward_of(scored.logprobs)

    prepare.__name__ = f"{which}_gradients"
    return prepare


def score(**run):
    hidden, weight = head(4000, 20000)
    ids = torch.zeros(4000, dtype=torch.int64)
    return lambda: isologit.score(hidden, weight, ids, outputs=("logprobs", "entropy", "rank"), top_k=5, **run)


def logits(**run):
    hidden, weight = head(4000, 20000)
    return lambda: isologit.logits(hidden, weight, **run)


def sample(**run):
    hidden, weight = head(4000, 20000)
    keys = {"seed": 1, "sequence_id": 2, "position": list(range(4000))}
    return lambda: isologit.sample(hidden, weight, top_p=0.9, **keys, **run)


def linear(**run):
    x, weight = head(4000, 20000)
    return lambda: forward.linear(x, weight, **run)


def log_softmax(**run):
    rows = normal(1, 50000).expand(8000, -1)
    return lambda: isologit.log_softmax(rows, **run)


def logprobs_of_logits(**run):
    rows, ids = normal(1, 50000).expand(40000, -1), torch.zeros(40000, dtype=torch.int64)
    return lambda: isologit.logprobs_of_logits(rows, ids, **run)


def sample_of_logits(**run):
    rows = normal(1, 50000).expand(40000, -1)
    keys = {"seed": 1, "sequence_id": 2, "position": list(range(40000))}
    return lambda: isologit.sample_of_logits(rows, **keys, **run)


def log_softmax_backward(**run):
    rows = normal(1000, 20000).requires_grad_()
    return backward_of(isologit.log_softmax(rows, **run))


def attention(**run):
    q, keys, values = (normal(4000, heads, 128) for heads in (8, 2, 2))
    return lambda: forward.attention(q, keys, values, scale=0.1, **run)


def attention_backward(**run):
    """Of all tokens in two pieces of work, one for each head of keys."""
    tokens = 4000
    q, keys, values = (normal(tokens, heads, 32) for heads in (8, 2, 2))
    lists = (torch.tensor([0, tokens]), torch.tensor([tokens]), None, None)
    numbers = (0.1, 0.0, True, 0)
    wanted = [True, True, True, False]
    op = torch.ops.isologit.attention_backward
    return lambda: op(q, keys, values, *lists, *numbers, q, wanted, run["threads"], [], run["kernel"])


def rms_norm(**run):
    x, weight = normal(400, 4096), normal(4096)
    return lambda: forward.rms_norm(x, weight, 1e-6, **run)


def layer_norm(**run):
    x, weight = normal(400, 4096), normal(4096)
    return lambda: forward.layer_norm(x, weight, None, 1e-5, **run)


def gate(**run):
    x, other = normal(400, 4096), normal(400, 4096)
    return lambda: forward.gate(x, other, kind="silu", **run)


def rotary(**run):
    x, frequencies = normal(400, 32, 128), forward.rotary_frequencies(1e4, 128)
    return lambda: forward.rotary(x, torch.arange(400), frequencies, **run)


PHASES = [
    *((phase, "", after) for phase in (score, logits, sample, linear) for after in (0.02, 0.3)),
    *((phase, "", 0.1) for phase in (log_softmax, logprobs_of_logits, sample_of_logits, log_softmax_backward)),
    *((phase, "", 0.1) for phase in (attention, attention_backward)),
    *((gradients(which), "", after) for which in ("fast", "exact") for after in (0.02, 0.4)),
    # By the definition a piece of work may take seconds.
    *((phase, "reference", 0.1) for phase in (score, sample, logprobs_of_logits, gradients("exact"))),
    *((phase, "reference", 0.1) for phase in (attention, rms_norm, layer_norm, gate, rotary)),
]


@pytest.mark.parametrize(
    ("phase", "kernel", "after"), [pytest.param(*x, id=f"{x[0].__name__}-{x[1] or 'best'}-{x[2]}") for x in PHASES]
)
def test_ends_soon(phase, kernel, after):
    call = phase(threads=2, kernel=kernel)
    assert best_seconds_after_signal(call, after) < AMPLE
