"""How gradients go through torch: rows and strides, frozen halves, buffers, compiled graphs, interruptions."""

import itertools
import math
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
import expected_gradients as by_definition  # noqa: E402
from expected import same_bits  # noqa: E402
from gradient_problem import ROWS, SIZE, VOCAB, dz_of, randn, random_mask, tensors  # noqa: E402

import isologit  # noqa: E402
import isologit._torch  # noqa: E402  (registers the operators)
from isologit._inputs import HeadArgs  # noqa: E402
from isologit._native import kernel_names  # noqa: E402
from isologit._support import SupportArgs  # noqa: E402
from isologit._torch.fingerprint import fingerprint  # noqa: E402


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_hidden_gradients_do_not_depend_on_the_batch_nor_any_on_threads(gradients):
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(40, 33, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(700, 33, generator=generator).bfloat16().requires_grad_()
    ids, upstream = torch.randint(0, 700, (40,), generator=generator), randn(40)

    def grads(rows, **options):
        got = isologit.linear_logprobs(hidden[rows], weight, ids[rows], gradients=gradients, **options)
        return torch.autograd.grad(got.logprobs, [hidden, weight], upstream[rows])

    whole = grads(slice(None))
    for rows in (slice(0, 1), slice(7, 8), slice(3, 29)):
        assert same_bits(grads(rows)[0][rows], whole[0][rows])
    for threads in (1, 2, 5):
        assert all(same_bits(a, b) for a, b in zip(grads(slice(None), threads=threads), whole, strict=True))


def test_shapes_and_strides():
    hidden, weight, _, ids = tensors()
    wanted = torch.autograd.grad(isologit.linear_logprobs(hidden, weight, ids).logprobs.sum(), [hidden, weight])
    wide = torch.zeros(2 * ROWS, SIZE + 5, dtype=torch.bfloat16)
    wide[::2, 2 : 2 + SIZE] = hidden.detach()
    wide.requires_grad_()
    scored = isologit.linear_logprobs(wide[::2, 2 : 2 + SIZE].reshape(1, ROWS, 1, SIZE), weight, ids.reshape(1, -1, 1))
    dwide, dweight = torch.autograd.grad(scored.logprobs.sum(), [wide, weight])
    assert same_bits(dwide[::2, 2 : 2 + SIZE], wanted[0]) and same_bits(dweight, wanted[1])
    assert dwide.count_nonzero() == wanted[0].count_nonzero()
    columns = hidden.detach().t().contiguous().t().requires_grad_()
    got = torch.autograd.grad(isologit.linear_logprobs(columns, weight, ids).logprobs.sum(), [columns, weight])
    assert all(same_bits(a, b) for a, b in zip(got, wanted, strict=True))
    upstream = randn(VOCAB, ROWS).t()  # columns that are adjacent
    dense = isologit.logits(hidden, weight)
    got = torch.autograd.grad(dense, [hidden, weight], upstream, retain_graph=True)
    wanted = torch.autograd.grad(dense, [hidden, weight], upstream.contiguous())
    assert all(same_bits(a, b) for a, b in zip(got, wanted, strict=True))


def test_frozen_halves_are_skipped():
    hidden, weight, bias, ids = tensors(bias_dtype=torch.float32)
    leaves = (hidden, weight, bias)
    whole = torch.autograd.grad(isologit.linear_logprobs(hidden, weight, ids, bias=bias).logprobs.sum(), leaves)
    for trained in itertools.product([False, True], repeat=3):
        if not any(trained):
            continue
        for leaf, trains in zip(leaves, trained, strict=True):
            leaf.requires_grad_(trains)
            leaf.grad = None
        isologit.linear_logprobs(hidden, weight, ids, bias=bias).logprobs.sum().backward()
        for leaf, trains, wanted in zip(leaves, trained, whole, strict=True):
            assert same_bits(leaf.grad, wanted) if trains else leaf.grad is None
    # What is not wanted is not made at all.
    for wanted in itertools.product([False, True], repeat=3):
        made = torch.ops.isologit.logits_backward(
            *head_args(hidden, weight, bias), COUNTS, randn(ROWS, VOCAB), "fast", *wanted, False, False
        )
        assert [tensor.numel() > 0 for tensor in made] == [*wanted, False, False]


# Buffers and tied weights


def test_micro_batches_add_up_in_a_buffer_with_one_rounding_each():
    hidden, weight, _, ids = tensors()
    buffer = torch.zeros(VOCAB, SIZE)
    weight.main_grad = buffer
    wanted = buffer.clone()
    none = torch.zeros(ROWS)
    for seed in range(3):
        upstream = randn(ROWS, seed=seed)
        got = isologit.linear_logprobs(hidden, weight, ids, gradients="exact", dweight_accumulate=weight.main_grad)
        got.logprobs.backward(upstream)
        dz = dz_of(hidden, weight, None, ids[:, None], upstream[:, None], none, none)
        wanted = by_definition.gradients(dz, hidden.detach(), weight.detach(), dweight_buffer=wanted)[1]
        assert same_bits(buffer, wanted)
    assert weight.grad is None and hidden.grad is not None
    before = buffer.clone()
    isologit.logits(hidden, weight, dweight_accumulate=buffer).sum().backward()
    assert weight.grad is None and not torch.equal(buffer, before)


def test_two_forwards_before_their_backwards_share_a_buffer():
    hidden, weight, _, ids = tensors()
    one, both = torch.zeros(VOCAB, SIZE), torch.zeros(VOCAB, SIZE)
    isologit.linear_logprobs(hidden, weight, ids, dweight_accumulate=one).logprobs.sum().backward()
    losses = [isologit.linear_logprobs(hidden, weight, ids, dweight_accumulate=both).logprobs.sum() for _ in "ab"]
    (losses[0] + losses[1]).backward()
    assert torch.equal(both, one * 2)


def test_tied_weights_accumulate_once():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(VOCAB, SIZE)
    head = isologit.nn.LMHead(embedding.weight)
    inputs, ids = torch.tensor([1, 2, 3, 3, 5]), torch.tensor([2, 3, 3, 5, 1])
    head.logprobs(embedding(inputs).tanh(), ids).logprobs.sum().backward()
    got = embedding.weight.grad
    # The two parts of the gradient, each on its own.
    hidden = embedding.weight.detach()[inputs].requires_grad_()
    weight = embedding.weight.detach().clone().requires_grad_()
    isologit.linear_logprobs(hidden.tanh(), weight, ids).logprobs.sum().backward()
    wanted = weight.grad.double().index_add(0, inputs, hidden.grad.double())
    assert (got.double() - wanted).abs().max() <= 2.0**-22 * wanted.abs().max()


# torch's own machinery


COUNTS = torch.zeros(len(isologit.Report._fields), dtype=torch.int64)  # of a kernel that runs everywhere
COUNTS[0] = kernel_names().index("portable")


def head_args(hidden, weight, bias=None, temperatures=None):
    temperatures = torch.ones(1) if temperatures is None else temperatures
    return HeadArgs(hidden, weight, bias, temperatures, weight.shape[0])


def test_backward_uses_what_forward_summed():
    hidden, weight, _, ids = tensors()
    scored = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True)
    hidden.data.mul_(2)  # unseen by autograd, but not by backward: these are not the logits of forward
    with pytest.raises(ValueError, match="hidden: written to since the forward pass, unseen by autograd"):
        scored.entropy.sum().backward()


def test_opcheck():
    hidden, weight, bias, ids = tensors(torch.float32, torch.float32, torch.float32)
    score, logits = torch.ops.isologit.score.default, torch.ops.isologit.logits.default
    no_support = SupportArgs()
    head = head_args(hidden, weight, bias)
    outputs = ["logprobs", "entropy", "lse"]
    torch.library.opcheck(score, (*head, *no_support, ids, -100, outputs, 3, True, "exact", None))
    masked = SupportArgs(random_mask())
    several = (*head_args(hidden, weight, temperatures=torch.rand(ROWS) + 0.5), *masked, torch.stack([ids, ids], 1))
    torch.library.opcheck(score, (*several, -100, ["logprobs"], 0, True, "fast", None))
    torch.library.opcheck(logits, (*head, torch.bfloat16, "fast", None))

    frozen = head_args(hidden.detach(), weight.detach(), bias.detach())
    no_summaries = torch.full((ROWS + 1, 5), math.nan, dtype=torch.float64)
    no_summaries[-1] = fingerprint(frozen, no_support, ids)
    nothing = (torch.empty(0, dtype=torch.int64), torch.empty(0), no_summaries)
    upstream = (ids, *nothing, COUNTS, -100, randn(ROWS), randn(ROWS, seed=1), None, None, None)
    ops = torch.ops.isologit
    for wanted in ((True, True, True, False, False), (False, True, False, False, False)):
        torch.library.opcheck(ops.score_backward.default, (*frozen, *no_support, *upstream, "fast", *wanted))
        torch.library.opcheck(ops.logits_backward.default, (*frozen, COUNTS, randn(ROWS, VOCAB), "fast", *wanted))
    into = ("exact", True, torch.zeros(VOCAB, SIZE), True, False, False)
    torch.library.opcheck(ops.score_backward_into.default, (*frozen, *no_support, *upstream, *into))
    torch.library.opcheck(ops.logits_backward_into.default, (*frozen, COUNTS, randn(ROWS, VOCAB), *into))


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_forward_and_backward_without_a_break(dynamic, accumulate):
    hidden, weight, bias, ids = tensors(bias_dtype=torch.float32)
    mask = random_mask()

    def loss(hidden, weight, bias, ids, mask, buffer):
        got = isologit.linear_logprobs(
            hidden * 2,
            weight,
            ids,
            bias=bias,
            temperature=0.7,
            return_entropy=True,
            top_k=2,
            mask=mask,
            dweight_accumulate=buffer,
        )
        finite = got.logprobs.masked_fill(got.logprobs == -math.inf, 0)
        dense = isologit.logits(hidden, weight, dweight_accumulate=buffer)
        return finite.sum() + got.entropy.square().sum() + dense.square().mean()

    def results(function, rows):
        buffer = torch.zeros(VOCAB, SIZE) if accumulate else None
        leaves = [hidden, weight, bias]
        for leaf in leaves:
            leaf.grad = None
        value = function(hidden[:rows], weight, bias, ids[:rows], mask[:rows], buffer)
        value.backward()
        return [value, hidden.grad, bias.grad, buffer if accumulate else weight.grad]

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (ROWS, 3):
        pairs = zip(results(compiled, rows), results(loss, rows), strict=True)
        assert all(same_bits(a.detach(), b.detach()) for a, b in pairs)


def test_autocast_changes_nothing():
    hidden, weight, _, ids = tensors(torch.float32, torch.float32)
    wanted = torch.autograd.grad(isologit.linear_logprobs(hidden, weight, ids).logprobs.sum(), [hidden, weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = isologit.linear_logprobs(hidden, weight, ids).logprobs.sum()
        got = torch.autograd.grad(loss, [hidden, weight])
    assert all(same_bits(a, b) for a, b in zip(got, wanted, strict=True))


def test_what_is_refused():
    hidden, weight, _, ids = tensors(torch.float32, torch.float32)
    loss = isologit.linear_logprobs(hidden, weight, ids).logprobs.sum()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    (dhidden,) = torch.autograd.grad(
        isologit.linear_logprobs(hidden, weight, ids).logprobs.sum(), [hidden], create_graph=True
    )
    with pytest.raises(RuntimeError, match="score_backward"):
        dhidden.sum().backward()
    with pytest.raises(ValueError, match="gradients is 'f64'; expected 'exact' or 'fast'"):
        isologit.linear_logprobs(hidden, weight, ids, gradients="f64")
    for buffer, message in (
        (torch.zeros(VOCAB, SIZE + 1), r"torch.float32 \[23, 8\]; expected .*\[23, 7\]"),
        (torch.zeros(VOCAB, SIZE, dtype=torch.float64), "torch.float64"),
        (torch.zeros(SIZE, VOCAB).t(), "strides are"),
        (torch.zeros(VOCAB, SIZE, requires_grad=True), "requires a gradient itself"),
    ):
        with pytest.raises(ValueError, match=f"dweight_accumulate.*{message}"):
            isologit.linear_logprobs(hidden, weight, ids, dweight_accumulate=buffer)
    with pytest.raises(ValueError, match="the weight is frozen"):
        isologit.logits(hidden, weight.detach(), dweight_accumulate=torch.zeros(VOCAB, SIZE))


def test_ctrl_c_stops_backward_between_tiles():
    code = """
import signal, torch, isologit
signal.signal(signal.SIGINT, signal.default_int_handler)
hidden, weight = torch.ones(64, 1024, requires_grad=True), torch.ones(20000, 1024)
scored = isologit.logits(hidden, weight)
# The rest by a kernel that takes minutes for it, every sum by exact accumulation.
isologit.Report.of = lambda counts: isologit.Report("reference", "exact", *[0] * 6)
print("started", flush=True)
try:
    torch.autograd.grad(scored, hidden, torch.ones_like(scored))
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("interrupted\n", "")
