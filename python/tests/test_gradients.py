"""Gradients of linear_logprobs and logits, against mpmath and rational arithmetic."""

import itertools
import math
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
import expected_gradients as by_definition  # noqa: E402
from expected import nearly_a_tie, same_bits  # noqa: E402
from expected_gradients import Transforms  # noqa: E402
from gradient_problem import ROWS, SIZE, VOCAB, dz_of, randn, random_mask, tensors  # noqa: E402

import isologit  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
PER_ROW = [1.0, 0.7, 1.3, 3.0, 0.25]


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
    "scale first": {"softcap": 1.5, "divide": 0.3, "temperature": 1.7, "transform_order": "scale_first"},
    "negative scale first": {"softcap": 2.5, "scale": -0.37, "transform_order": "scale_first"},
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
@pytest.mark.parametrize("order", ["softcap_first", "scale_first"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits(dtype, order, gradients):
    hidden, weight, bias, _ = tensors(bias_dtype=torch.float32)
    options = {"softcap": 2.5, "scale": 0.3, "transform_order": order}
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
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradients_of_logits_one_of_which_is_nan(gradients, softcap):
    hidden, weight, bias, _ = tensors(torch.float32, torch.float32, torch.float32)
    upstream = torch.ones(ROWS, VOCAB)
    upstream[3] = 0
    with torch.no_grad():
        hidden[1:4, 0] = math.inf  # of one id the product is NaN, which in row 2 has no upstream
        weight[:, 0] = torch.where(torch.arange(VOCAB) == 4, 0.0, 1.0)
        upstream[2] = torch.where(torch.arange(VOCAB) == 4, 0.0, 1.0)
    z = isologit.logits(hidden, weight, bias=bias, softcap=softcap, gradients=gradients)
    assert z.isnan().nonzero().tolist() == [[1, 4], [2, 4], [3, 4]]
    dhidden, dbias = torch.autograd.grad(z, [hidden, bias], upstream)
    assert dhidden[1:3].isnan().all() and dhidden[[0, 4]].isfinite().all() and (dhidden[3] == 0).all()
    assert dbias.isnan().all()


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
