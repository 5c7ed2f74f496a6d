"""The signatures of other projects, against their own formulas in float64."""

from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
import expected  # noqa: E402
from expected import round_once, same_bits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from isologit import logits  # noqa: E402
from isologit.integrations import liger, prime_rl, trl, verl  # noqa: E402

ROWS, VOCAB, SIZE = 8, 40, 16


def head(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, SIZE, generator=generator).bfloat16()
    weight = torch.randn(VOCAB, SIZE, generator=generator).bfloat16()
    return hidden, weight, torch.randint(0, VOCAB, (ROWS,), generator=generator)


def float64(hidden, weight, temperature=1.0):
    # Products of these bf16 numbers add up exactly in f64.
    z = F.linear(hidden.double(), weight.double()).float()
    z = (z.double() / torch.as_tensor(temperature, dtype=torch.float32).double()).float()
    return torch.log_softmax(z.double(), -1)


def assert_rounded(got, wanted):
    sure = ~expected.nearly_a_tie(wanted)
    assert got.dtype == torch.float32 and got.shape == wanted.shape and sure.any()
    assert torch.equal(got[sure], wanted.float()[sure])


def assert_gradients(results, formula, leaves):
    """Of both under the same random upstreams: within 2^-14 of the largest element of float64's."""
    generator = torch.Generator().manual_seed(7)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = formula(*wide)
    upstreams = [torch.randn(result.shape, generator=generator) for result in results]
    got = torch.autograd.grad(results, leaves, upstreams)
    exact = torch.autograd.grad(wanted, wide, [upstream.double() for upstream in upstreams])
    for g, e in zip(got, exact, strict=True):
        assert g.dtype == torch.float32 and e.abs().max() > 0.01
        assert (g.double() - e).abs().max() <= 2.0**-14 * e.abs().max()


def f32_leaves():
    hidden, weight, ids = head()
    return hidden.float().requires_grad_(), weight.float().requires_grad_(), ids


def scores(hidden, weight, ids, temperature):
    p = torch.log_softmax(F.linear(hidden, weight) / temperature, -1)
    return p.gather(-1, ids[:, None])[:, 0], -(p.exp() * p).sum(-1)


def test_trl_selective_log_softmax():
    hidden, weight, index = head()
    p = float64(hidden, weight, 0.7)
    got = trl.selective_log_softmax(hidden.reshape(2, 4, SIZE), weight, index.reshape(2, 4), temperature=0.7)
    assert_rounded(got, p.gather(-1, index[:, None]).reshape(2, 4))
    several = torch.stack([index, index.flip(0)], -1)
    assert_rounded(trl.selective_log_softmax(hidden, weight, several, temperature=0.7), p.gather(-1, several))


def test_gradients_of_trl_verl_and_prime_rl():
    hidden, weight, ids = f32_leaves()
    each = torch.linspace(0.5, 2, ROWS)
    got = trl.selective_log_softmax(hidden, weight, ids, temperature=0.7)
    assert_gradients([got], lambda h, w: [scores(h, w, ids, 0.7)[0]], [hidden, weight])
    several = torch.stack([ids, ids.flip(0), ids], -1)
    got = trl.selective_log_softmax(hidden, weight, several, gradients="exact")
    assert_gradients([got], lambda h, w: [torch.log_softmax(F.linear(h, w), -1).gather(-1, several)], [hidden, weight])
    got = verl.linear_cross_entropy(hidden, weight, ids, each)
    assert_gradients(got, lambda h, w: scores(h, w, ids, each[:, None].double()), [hidden, weight])
    module = prime_rl.OutputLinear(nn.Parameter(weight.detach()))
    out = module(hidden, ids, temperature=each)
    leaves = [hidden, module.weight]
    assert_gradients([out["logprobs"], out["entropy"]], lambda h, w: scores(h, w, ids, each[:, None].double()), leaves)
    assert_gradients([module(hidden)["logits"]], lambda h, w: [F.linear(h, w)], leaves)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_liger(reduction):
    hidden, weight, target = f32_leaves()
    target[3] = target[5] = -100
    bias = torch.linspace(-1, 1, VOCAB).requires_grad_()
    loss = liger.LigerFusedLinearCrossEntropyLoss(reduction=reduction)(weight, hidden, target, bias)
    assert_gradients(
        [loss],
        lambda h, w, b: [F.cross_entropy(F.linear(h, w, b), target, reduction=reduction)],
        [hidden, weight, bias],
    )


def test_verl_linear_cross_entropy():
    hidden, weight, labels = head()
    p = float64(hidden, weight, 1.3)
    logprobs, entropy = verl.linear_cross_entropy(hidden, weight, labels, 1.3)
    assert_rounded(logprobs, p.gather(-1, labels[:, None])[:, 0])
    assert_rounded(entropy, -(p.exp() * p).sum(-1))
    with pytest.raises(NotImplementedError, match="dist_process_group"):
        verl.linear_cross_entropy(hidden, weight, labels, 1.3, "none", object())
    with pytest.raises(NotImplementedError, match="reduction is 'mean'"):
        verl.linear_cross_entropy(hidden, weight, labels, 1.3, "mean")


def test_prime_rl_output():
    hidden, weight, labels = head()
    module = prime_rl.OutputLinear(nn.Parameter(weight))
    temperature = torch.linspace(0.5, 2, ROWS)
    with torch.no_grad():
        out = module(hidden.reshape(1, ROWS, SIZE), labels.reshape(1, ROWS), temperature=temperature.reshape(1, ROWS))
        assert sorted(out) == ["entropy", "logprobs"]
        p = float64(hidden, weight, temperature[:, None])
        assert_rounded(out["logprobs"][0], p.gather(-1, labels[:, None])[:, 0])
        assert_rounded(out["entropy"][0], -(p.exp() * p).sum(-1))
        plain = module(hidden)
    assert sorted(plain) == ["logits"] and same_bits(plain["logits"], expected.logits(hidden, weight))
    assert same_bits(plain["logits"], logits(hidden, weight))


def test_liger_loss():
    hidden, weight, target = head()
    target[3] = target[5] = -100
    p = float64(hidden, weight).gather(-1, target.clamp(min=0)[:, None])[:, 0]
    assert not expected.nearly_a_tie(p).any()
    counted = [Fraction(x) for x, t in zip(p.float().tolist(), target.tolist(), strict=True) if t != -100]
    mean = liger.LigerFusedLinearCrossEntropyLoss()(weight, hidden, target)
    assert mean.dtype == torch.float32 and mean.shape == () and mean.item() == round_once(-sum(counted) / len(counted))
    total = liger.LigerFusedLinearCrossEntropyLoss(reduction="sum")(weight, hidden, target, torch.zeros(VOCAB))
    assert total.item() == round_once(-sum(counted))
    each = liger.fused_linear_cross_entropy(hidden, weight, target, reduction="none")
    assert_rounded(each, torch.where(target == -100, 0.0, -p))
    assert not torch.signbit(each[3])
    assert liger.fused_linear_cross_entropy(hidden, weight, torch.full((ROWS,), -100)).isnan()
    both = {"label_smoothing": 0.1, "lse_square_scale": 1e-2}
    z = F.linear(hidden.double(), weight.double())
    wanted = F.cross_entropy(z, target, label_smoothing=0.1) + 1e-2 * z.logsumexp(-1)[target != -100].square().mean()
    for got in (
        liger.fused_linear_cross_entropy(hidden, weight, target, **both),
        liger.LigerFusedLinearCrossEntropyLoss(**both)(weight, hidden, target),
    ):
        assert abs(got.item() - wanted.item()) < 1e-6
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        liger.fused_linear_cross_entropy(hidden, weight, target, reduction="avg")
