"""Gradients of linear_logprobs and logits, against mpmath and rational arithmetic."""

import itertools
import math
import signal
import subprocess
import sys
import time
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
import expected_gradients as by_definition  # noqa: E402
from expected import nearly_a_tie, same_bits  # noqa: E402
from expected_gradients import Transforms, Upstream  # noqa: E402

import isologit  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROWS, VOCAB, SIZE = 5, 23, 7
PER_ROW = [1.0, 0.7, 1.3, 3.0, 0.25]


def tensors(hidden_dtype=torch.bfloat16, weight_dtype=torch.bfloat16, bias_dtype=None, seed=0, vocab=VOCAB):
    generator = torch.Generator().manual_seed(seed)

    def leaf(dtype, *shape):
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    bias = None if bias_dtype is None else leaf(bias_dtype, vocab)
    ids = torch.randint(0, VOCAB - 3, (ROWS,), generator=generator)
    return leaf(hidden_dtype, ROWS, SIZE), leaf(weight_dtype, vocab, SIZE), bias, ids


def randn(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dz_of(hidden, weight, bias, ids, d_logprobs, d_lse, d_entropy, mask=None, z0=None, **transforms):
    """ids and d_logprobs [N, K]; z0: the logits, if not the exact ones."""
    if z0 is None:
        z0 = by_definition.first_logits(hidden.detach(), weight.detach(), None if bias is None else bias.detach())
    transforms.setdefault("temperature", [1.0] * len(z0))
    mask = [[True] * len(z0[0])] * len(z0) if mask is None else mask.tolist()
    return [
        by_definition.dz_of_row(
            z0[n],
            n,
            Transforms(**transforms),
            Upstream(ids[n].tolist(), d_logprobs[n].tolist(), d_lse[n].item(), d_entropy[n].item()),
            mask[n],
        )
        for n in range(len(z0))
    ]


def assert_gradients(hidden, weight, bias, results, upstreams, dz, gradients):
    """Those of `results` under `upstreams` are the sums of dz, as exact or as near as `gradients` says."""
    leaves = [x for x in (hidden, weight, bias) if x is not None]
    got = torch.autograd.grad(results, leaves, upstreams)
    assert all(g.dtype == x.dtype and g.shape == x.shape for g, x in zip(got, leaves, strict=True))
    vocab = len(dz[0])
    if gradients == "exact":
        wanted = by_definition.gradients(
            dz, hidden.detach(), weight.detach()[:vocab], torch.float32 if bias is None else bias.dtype
        )
        for g, one in zip(got, wanted, strict=False):
            assert same_bits(g[: len(one)], one)
            assert (g[len(one) :] == 0).all()  # rows of padding
    else:
        columns = [list(column) for column in zip(*dz, strict=True)]
        assert by_definition.within_the_bound(got[0], dz, weight.detach()[:vocab])
        assert by_definition.within_the_bound(got[1][:vocab], columns, hidden.detach())
        if bias is not None:
            assert by_definition.within_the_bound(got[2][:vocab, None], columns, torch.ones(len(dz), 1))


@pytest.mark.parametrize("gradients", ["exact", "fast"])
@pytest.mark.parametrize(("hidden_dtype", "weight_dtype"), list(itertools.product(DTYPES, DTYPES)))
def test_logprobs_entropy_and_lse_together(hidden_dtype, weight_dtype, gradients):
    hidden, weight, bias, ids = tensors(hidden_dtype, weight_dtype, weight_dtype)
    got = isologit.linear_logprobs(
        hidden,
        weight,
        ids,
        bias=bias,
        temperature=torch.tensor(PER_ROW),
        return_entropy=True,
        return_lse=True,
        gradients=gradients,
    )
    upstreams = [randn(ROWS, seed=seed) for seed in range(3)]
    dz = dz_of(
        hidden,
        weight,
        bias,
        ids[:, None],
        upstreams[0][:, None],
        upstreams[2],
        upstreams[1],
        temperature=PER_ROW,
    )
    assert_gradients(hidden, weight, bias, [got.logprobs, got.entropy, got.lse], upstreams, dz, gradients)


@pytest.mark.parametrize("gradients", ["exact", "fast"])
@pytest.mark.parametrize("output", ["logprobs", "entropy", "lse"])
def test_each_alone(output, gradients):
    hidden, weight, _, ids = tensors()
    options = {} if output == "logprobs" else {f"return_{output}": True}
    got = getattr(isologit.linear_logprobs(hidden, weight, ids, gradients=gradients, **options), output)
    upstream, none = randn(ROWS), torch.zeros(ROWS)
    dz = dz_of(
        hidden,
        weight,
        None,
        ids[:, None],
        (upstream if output == "logprobs" else none)[:, None],
        upstream if output == "lse" else none,
        upstream if output == "entropy" else none,
    )
    assert_gradients(hidden, weight, None, [got], [upstream], dz, gradients)


OPTIONS = {
    "softcap": {"softcap": 2.5},
    "scale": {"scale": -0.37},
    "divide": {"divide": 3.0},
    "temperature": {"temperature": 0.7},
    "all": {"softcap": 1.5, "divide": 0.3, "temperature": 1.7},
}


@pytest.mark.parametrize("gradients", ["exact", "fast"])
@pytest.mark.parametrize("name", OPTIONS)
def test_transforms(name, gradients):
    options = OPTIONS[name]
    hidden, weight, bias, ids = tensors(bias_dtype=torch.float32)
    got = isologit.linear_logprobs(hidden, weight, ids, bias=bias, return_entropy=True, gradients=gradients, **options)
    upstreams = [randn(ROWS, seed=1), randn(ROWS, seed=2)]
    options = {**options, "temperature": [options.get("temperature", 1.0)] * ROWS}
    dz = dz_of(hidden, weight, bias, ids[:, None], upstreams[0][:, None], torch.zeros(ROWS), upstreams[1], **options)
    assert_gradients(hidden, weight, bias, [got.logprobs, got.entropy], upstreams, dz, gradients)


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_fast_logits_are_differentiated_at_the_logits_of_forward(gradients):
    hidden, weight, bias, ids = tensors(torch.float32, torch.float32, torch.float32)
    z = isologit.logits(hidden, weight, bias=bias, arithmetic="fast").detach()
    assert not same_bits(z, isologit.logits(hidden, weight, bias=bias).detach())
    got = isologit.linear_logprobs(
        hidden, weight, ids, bias=bias, return_entropy=True, arithmetic="fast", gradients=gradients
    )
    p = torch.log_softmax(z.double(), -1)
    wanted = p.gather(-1, ids[:, None])[:, 0]
    sure = ~nearly_a_tie(wanted)
    assert sure.any() and torch.equal(got.logprobs.detach()[sure], wanted.float()[sure])
    upstreams = [randn(ROWS, seed=1), randn(ROWS, seed=2)]
    z0 = [[Fraction(x) for x in row] for row in z.tolist()]
    dz = dz_of(hidden, weight, bias, ids[:, None], upstreams[0][:, None], torch.zeros(ROWS), upstreams[1], z0=z0)
    assert_gradients(hidden, weight, bias, [got.logprobs, got.entropy], upstreams, dz, gradients)


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_several_ids_with_duplicates_and_ignored_ones(gradients):
    hidden, weight, _, _ = tensors()
    ids = torch.tensor([[1, 2, 1, 1], [3, -100, 4, 3], [-100, -100, -100, -100], [0, 1, 2, 3], [9, 9, 9, 9]])
    got = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, gradients=gradients)
    upstreams = [randn(ROWS, 4, seed=1), randn(ROWS, seed=2)]
    counted = upstreams[0].masked_fill(ids == -100, 0)
    # A row of several ids is scored for its entropy even when all of them are ignored.
    dz = dz_of(hidden, weight, None, ids, counted, torch.zeros(ROWS), upstreams[1])
    assert any(dz[2])
    assert_gradients(hidden, weight, None, [got.logprobs, got.entropy], upstreams, dz, gradients)


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_top_k_and_an_ignore_index_of_the_vocabulary(gradients):
    hidden, weight, _, ids = tensors()
    plain = isologit.linear_logprobs(hidden, weight, ids, top_k=3)
    ignore_index = plain.top_k_ids[0, 0].item()  # which stays a top-k id like others
    ids[0], ids[1] = (ignore_index + 1) % 20, ignore_index
    got = isologit.linear_logprobs(
        hidden, weight, ids, top_k=3, return_lse=True, ignore_index=ignore_index, gradients=gradients
    )
    upstreams = [randn(ROWS, seed=1), randn(ROWS, 3, seed=2), randn(ROWS, seed=3)]
    counts = (ids != ignore_index)[:, None]
    assert not counts[1] and counts.sum() >= 3
    dz = dz_of(
        hidden,
        weight,
        None,
        torch.cat([ids[:, None], plain.top_k_ids], 1),
        torch.cat([upstreams[0][:, None], upstreams[1]], 1) * counts,
        upstreams[2] * counts[:, 0],
        torch.zeros(ROWS),
    )
    results = [got.logprobs, got.top_k_logprobs, got.lse]
    assert_gradients(hidden, weight, None, results, upstreams, dz, gradients)


def random_mask():
    mask = torch.rand(ROWS, VOCAB, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0] = True
    mask[1] = False
    mask[1, 4] = True
    return mask


@pytest.mark.parametrize("gradients", ["exact", "fast"])
@pytest.mark.parametrize("said", ["mask", "kept", "banned", "one mask"])
def test_supports(said, gradients):
    hidden, weight, _, ids = tensors()
    mask = random_mask()
    if said == "one mask":
        mask = mask[3].expand(ROWS, VOCAB)
    mask = mask.clone()
    mask[2, ids[2]] = False  # masked out: no logit to raise, the others' still fall
    options = {
        "mask": {"mask": mask},
        "kept": {"kept": [row.nonzero().flatten().tolist() for row in mask]},
        "banned": {"banned": [(~row).nonzero().flatten().tolist() for row in mask]},
        "one mask": {"mask": mask[0]},
    }[said]
    if said == "one mask":
        mask[2] = mask[0]
    got = isologit.linear_logprobs(
        hidden, weight, ids, return_entropy=True, return_lse=True, top_k=2, gradients=gradients, **options
    )
    upstreams = [randn(ROWS, seed=seed) for seed in range(3)]
    d_top_k = randn(ROWS, 2, seed=4)
    # One id in row 1: its second top-k id is -1 and its logprob -inf, a constant.
    counted = d_top_k * (got.top_k_ids >= 0)
    dz = dz_of(
        hidden,
        weight,
        None,
        torch.cat([ids[:, None], got.top_k_ids], 1),
        torch.cat([upstreams[0][:, None], counted], 1),
        upstreams[2],
        upstreams[1],
        mask=mask,
    )
    assert all(dz[n][v] == 0 for n in range(ROWS) for v in range(VOCAB) if not mask[n, v])
    results = [got.logprobs, got.entropy, got.lse, got.top_k_logprobs]
    assert_gradients(hidden, weight, None, results, [*upstreams, d_top_k], dz, gradients)


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_rows_of_padding_get_zeros(gradients):
    hidden, weight, bias, ids = tensors(bias_dtype=torch.bfloat16)
    got = isologit.linear_logprobs(hidden, weight, ids, bias=bias, vocab_size=VOCAB - 2, gradients=gradients)
    upstream, none = randn(ROWS), torch.zeros(ROWS)
    dz = dz_of(hidden, weight[:-2], bias[:-2], ids[:, None], upstream[:, None], none, none)
    assert_gradients(hidden, weight, bias, [got.logprobs], [upstream], dz, gradients)


@pytest.mark.parametrize("gradients", ["exact", "fast"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits(dtype, gradients):
    hidden, weight, bias, _ = tensors(bias_dtype=torch.float32)
    options = {"softcap": 2.5, "scale": 0.3}
    got = isologit.logits(
        hidden, weight, bias=bias, temperature=torch.tensor(PER_ROW), dtype=dtype, gradients=gradients, **options
    )
    upstream = randn(ROWS, VOCAB).to(dtype)
    transforms = Transforms(PER_ROW, **options)
    z0 = by_definition.first_logits(hidden.detach(), weight.detach(), bias.detach())
    with by_definition.mp.workdps(by_definition.DIGITS):
        dz = [
            [
                by_definition.round_once(
                    by_definition.fraction(by_definition.real(g) * transforms.slope(n, float(z0[n][v])))
                )
                for v, g in enumerate(row)
            ]
            for n, row in enumerate(upstream.double().tolist())
        ]
    assert_gradients(hidden, weight, bias, [got], [upstream], dz, gradients)


# Rows that do not count


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_rows_without_upstream_contribute_nothing_whatever_they_hold(gradients):
    hidden, weight, _, ids = tensors(torch.float32, torch.float32)
    wrong = hidden.detach().clone()
    wrong[1], wrong[3, 2] = math.nan, math.inf
    wrong.requires_grad_()
    ids[3] = -100
    counts = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])

    def grads(hidden):
        got = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, top_k=2, gradients=gradients)
        upstreams = [counts, counts * 0.5, torch.ones(ROWS, 2) * counts[:, None]]
        return torch.autograd.grad([got.logprobs, got.entropy, got.top_k_logprobs], [hidden, weight], upstreams)

    dhidden, dweight = grads(wrong)
    clean = grads(hidden)
    assert same_bits(dweight, clean[1]) and same_bits(dhidden, clean[0])
    assert (dhidden[1] == 0).all() and (dhidden[3] == 0).all() and (dhidden[0] != 0).any()


def test_a_row_of_nan_with_an_upstream_is_nan():
    hidden, weight, _, ids = tensors(torch.float32, torch.float32)
    with torch.no_grad():
        hidden[1] = math.nan
    got = isologit.linear_logprobs(hidden, weight, ids, top_k=2)
    for result in (got.logprobs, got.top_k_logprobs):
        dhidden, dweight = torch.autograd.grad(result.sum(), [hidden, weight], retain_graph=True)
        assert dhidden[1].isnan().all() and dhidden[[0, 2, 3, 4]].isfinite().all() and dweight.isnan().all()
    # No id at all: the top-k ids are -1, and still the row's results are NaN rather than constants.
    got = isologit.linear_logprobs(hidden[2:3], weight, ids[2:3], mask=torch.zeros(VOCAB, dtype=torch.bool), top_k=2)
    assert got.top_k_ids.tolist() == [[-1, -1]] and got.top_k_logprobs.isnan().all()


def test_no_rows():
    hidden, weight, bias, ids = tensors(bias_dtype=torch.float32)
    none = hidden[:0].reshape(0, 3, SIZE)
    loss = isologit.linear_logprobs(none, weight, ids[:0].reshape(0, 3), bias=bias, top_k=2).top_k_logprobs.sum()
    loss = loss + isologit.logits(none, weight, bias=bias).sum()
    for leaf, grad in zip((hidden, weight, bias), torch.autograd.grad(loss, [hidden, weight, bias]), strict=True):
        assert grad.shape == leaf.shape and (grad == 0).all()


# What depends on what


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
        made = torch.ops.isologit.logits_backward(*head_args(hidden, weight, bias), randn(ROWS, VOCAB), "fast", *wanted)
        assert [tensor.numel() > 0 for tensor in made] == list(wanted)


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


def head_args(hidden, weight, bias=None, temperatures=None):
    temperatures = torch.ones(1) if temperatures is None else temperatures
    return (hidden, weight, bias, temperatures, weight.shape[0], None, None, None, "exact", 0, "")


def test_opcheck():
    hidden, weight, bias, ids = tensors(torch.float32, torch.float32, torch.float32)
    score, logits = torch.ops.isologit.score.default, torch.ops.isologit.logits.default
    no_support = (None,) * 5
    head = head_args(hidden, weight, bias)
    torch.library.opcheck(score, (*head, *no_support, ids, -100, True, True, 3, "exact", None))
    masked = (random_mask(), None, None, None, None)
    several = (*head_args(hidden, weight, temperatures=torch.rand(ROWS) + 0.5), *masked, torch.stack([ids, ids], 1))
    torch.library.opcheck(score, (*several, -100, False, False, 0, "fast", None))
    torch.library.opcheck(logits, (*head, torch.bfloat16, "fast", None))

    frozen = head_args(hidden.detach(), weight.detach(), bias.detach())
    nothing = (torch.empty(0, dtype=torch.int64), torch.empty(0))
    upstream = (ids, -100, *nothing, randn(ROWS), randn(ROWS, seed=1), None, None)
    ops = torch.ops.isologit
    for wanted in ((True, True, True), (False, True, False)):
        torch.library.opcheck(ops.score_backward.default, (*frozen, *no_support, *upstream, "fast", *wanted))
        torch.library.opcheck(ops.logits_backward.default, (*frozen, randn(ROWS, VOCAB), "fast", *wanted))
    into = ("exact", True, torch.zeros(VOCAB, SIZE), True)
    torch.library.opcheck(ops.score_backward_into.default, (*frozen, *no_support, *upstream, *into))
    torch.library.opcheck(ops.logits_backward_into.default, (*frozen, randn(ROWS, VOCAB), *into))


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
import torch, isologit
hidden, weight = torch.ones(64, 1024, requires_grad=True), torch.ones(20000, 1024)
scored = isologit.logits(hidden, weight)
# The rest by a kernel that takes minutes for it, every sum by exact accumulation.
node = scored.grad_fn.next_functions[0][0]
node.rest_of_head = (*node.rest_of_head[:-1], "reference")
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
