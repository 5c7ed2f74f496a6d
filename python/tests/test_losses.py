"""isologit.losses against the formulas of the papers in 60 digits, rounded once; and over any split of the tokens."""

import itertools
import math
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
mpmath = pytest.importorskip("mpmath")
from expected import round_once, same_bits  # noqa: E402
from mpmath import mp, mpf  # noqa: E402

from isologit import _real, losses  # noqa: E402

B, T, LOW, HIGH, BETA = 5, 7, 0.2, 0.28, 0.04


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def f32(x):
    return float(torch.tensor(x, dtype=torch.float32))


def fraction(x):
    """Of an mpf, exactly."""
    sign, mantissa, exponent, _ = mpf(x)._mpf_
    return Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent


def rn32(x):
    return round_once(fraction(x))


def clip(r):
    return min(max(r, 1 - mpf(f32(LOW))), 1 + mpf(f32(HIGH)))


def grpo(new, o, a, r):
    """DeepSeekMath, of one token, with its estimate of the KL; DAPO and Dr. GRPO clip likewise."""
    w = mp.exp(new - o)
    return -(min(w * a, clip(w) * a) - mpf(f32(BETA)) * (mp.exp(r - new) - (r - new) - 1))


def cispo(new, o, a, r, weight=None):
    """MiniMax-M1: the clipped weight has no gradient."""
    weight = clip(mp.exp(new - o)) if weight is None else weight
    return -weight * a * new + mpf(f32(BETA)) * (mp.exp(r - new) - (r - new) - 1)


def sapo(new, o, a, r):
    """arXiv 2511.20347."""
    tau = mpf(f32(1.0 if a > 0 else 1.05))
    gate = 4 / tau / (1 + mp.exp(-tau * (mp.exp(new - o) - 1)))
    return -gate * a + mpf(f32(BETA)) * (mp.exp(r - new) - (r - new) - 1)


TERMS = {"grpo": grpo, "dapo": grpo, "dr_grpo": grpo, "cispo": cispo, "sapo": sapo}


def batch(seed=0, spread=0.3):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    logprobs = -normal(B, T).abs() * 2
    mask = torch.rand(B, T, generator=generator) < 0.7
    mask[3] = False
    mask[2, 0] = True
    given = (logprobs, logprobs + spread * normal(B, T), normal(B), mask)
    return given, logprobs + 0.1 * normal(B, T)


def options(kind, ref):
    more = {"clip_low": LOW, "clip_high": HIGH}
    if kind != "gspo":
        more |= {"ref_logprobs": ref, "kl_weight": BETA}
    return more | ({"max_length": 16} if kind == "dr_grpo" else {})


def tokens(given, ref, row):
    logprobs, old, advantages, mask = given
    return [
        tuple(mpf(float(x)) for x in (logprobs[row, t], old[row, t], advantages[row], ref[row, t]))
        for t in range(T)
        if mask[row, t]
    ]


def divisors(kind, given):
    """Of the terms of each sequence, and of all."""
    lengths = given[3].sum(1).tolist()
    sequences, all_tokens = sum(n > 0 for n in lengths), sum(lengths)
    each = {"grpo": lengths, "sapo": lengths, "dr_grpo": [16] * B}.get(kind, [1] * B)
    return each, all_tokens if kind in ("dapo", "cispo") else sequences


def gspo(logs, a):
    """Of the mean log-ratio of one sequence."""
    s = mp.exp(logs)
    return -min(s * a, clip(s) * a)


@pytest.mark.parametrize("kind", losses.KINDS)
@pytest.mark.parametrize("spread", [0.3, 1e-6, 0.0])
def test_losses_are_those_of_the_papers(kind, spread):
    given, ref = batch(spread=spread)
    each, over = divisors(kind, given)
    total = Fraction(0)
    for row in range(B):
        of_row = tokens(given, ref, row)
        if kind == "gspo":
            if of_row:
                mean = mp.fsum(new - o for new, o, _, _ in of_row) / len(of_row)
                total += Fraction(rn32(gspo(mean, of_row[0][2])))
        else:
            total += sum((Fraction(rn32(TERMS[kind](*token))) for token in of_row), Fraction(0)) / max(each[row], 1)
    loss = losses.policy_loss(*given, kind=kind, **options(kind, ref))
    assert loss.dtype == torch.float32 and loss.item() == round_once(total / over)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_gradients_are_slopes_of_the_papers_formulas(kind):
    given, ref = batch()
    each, over = divisors(kind, given)
    leaf = given[0].requires_grad_()
    (3.7 * losses.policy_loss(*given, kind=kind, **options(kind, ref))).backward()
    upstream, wanted = mpf(f32(3.7)), []
    for row in range(B):
        of_row = tokens(given, ref, row)
        for new, o, a, r in of_row:
            if kind == "gspo":
                mean = mp.fsum(new - o for new, o, _, _ in of_row) / len(of_row)
                slope = mp.diff(lambda x, a=a: gspo(x, a), mean) / len(of_row)
            elif kind == "cispo":
                weight = clip(mp.exp(new - o))
                slope = mp.diff(lambda x, o=o, a=a, r=r, w=weight: cispo(x, o, a, r, w), new)
            else:
                slope = mp.diff(lambda x, o=o, a=a, r=r: TERMS[kind](x, o, a, r), new)
            wanted.append(rn32(upstream * slope / (each[row] * over)))
    got = leaf.grad[given[3]].tolist()
    assert len(got) > 15 and sum(x == 0 for x in got) < len(got)
    # A difference quotient leaves a zero slope near, not at, zero.
    assert all(g == w or (g == 0 and abs(w) < 1e-15) for g, w in zip(got, wanted, strict=True))
    assert not leaf.grad[~given[3]].any()


@pytest.mark.parametrize("kind", losses.KINDS)
def test_ranks_and_micro_batches_give_the_same_bits(kind):
    given, ref = batch(1)
    more = options(kind, ref)
    whole = losses.policy_loss(*given, kind=kind, **more)
    leaf = given[0].clone().requires_grad_()
    losses.policy_loss(leaf, *given[1:], kind=kind, **more).backward()
    for split in ([1, 4], [2, 2, 1], [1] * B):
        rows = list(itertools.accumulate(split, initial=0))
        parts, grads = [], []
        for first, last in itertools.pairwise(rows):
            cut = [tensor[first:last] for tensor in given]
            mine = {k: v[first:last] if k == "ref_logprobs" else v for k, v in more.items()}
            parts.append(losses.policy_loss_part(*cut, kind=kind, **mine))
            leaf_part = cut[0].clone().requires_grad_()
            count = divisors(kind, given)[1]
            losses.policy_loss(leaf_part, *cut[1:], kind=kind, count=count, **mine).backward()
            grads.append(leaf_part.grad)
        total = parts[-1]
        for part in parts[:-1]:
            total = total + part
        assert total.loss() == whole.item()
        assert same_bits(torch.cat(grads), leaf.grad)
    padded = [torch.nn.functional.pad(tensor, (0, 3)) if tensor.dim() == 2 else tensor for tensor in given]
    mine = {k: torch.nn.functional.pad(v, (0, 3)) if k == "ref_logprobs" else v for k, v in more.items()}
    assert losses.policy_loss(*padded, kind=kind, **mine).item() == whole.item()
    with pytest.raises(ValueError, match="expected parts of one loss"):
        parts[0] + losses.policy_loss_part(*given, kind="sapo" if kind != "sapo" else "gspo")


def test_ratio_and_kl():
    (logprobs, old, _, _), ref = batch(2)
    old[0, :2] = torch.tensor([-1e-30, -120.0])
    logprobs[0, :2] = torch.tensor([-2e-30, 0.0])
    ref[1] = logprobs[1] + 1e-6 * ref[1]  # where e^x - 1 - x cancels in f64
    formulas = {
        None: lambda new, o: mp.exp(new - o),
        "k1": lambda new, o: new - o,
        "k2": lambda new, o: (new - o) ** 2 / 2,
        "k3": lambda new, o: mp.exp(o - new) - (o - new) - 1,
    }
    for kind, formula in formulas.items():
        other = old if kind is None else ref
        leaf = logprobs.clone().requires_grad_()
        got = losses.ratio(leaf, other) if kind is None else losses.kl(leaf, other, kind)
        got.backward(torch.full((B, T), 0.3))
        for new, o, value, grad in zip(logprobs.ravel(), other.ravel(), got.ravel(), leaf.grad.ravel(), strict=True):
            new, o, value, grad = mpf(float(new)), mpf(float(o)), value.item(), grad.item()
            assert value == rn32(formula(new, o))
            slope = {None: mp.exp(new - o), "k1": 1, "k2": new - o, "k3": 1 - mp.exp(o - new)}[kind]
            assert grad == rn32(mpf(f32(0.3)) * slope)
    with pytest.raises(ValueError, match="kind is 'k4'; expected one of k1, k2, k3"):
        losses.kl(logprobs, ref, "k4")


@pytest.mark.parametrize("kind", losses.KINDS)
def test_fractions_and_intervals_settle_the_same_terms(kind, monkeypatch):
    given, ref = batch(4)
    more = options(kind, ref)

    def bits():
        leaf = given[0].clone().requires_grad_()
        loss = losses.policy_loss(leaf, *given[1:], kind=kind, **more)
        loss.backward()
        return loss.item(), leaf.grad

    loss, grad = bits()
    monkeypatch.setattr(_real, "_UNIT", 2.0**-10)  # f64 settles nothing then
    again, grad_again = bits()
    assert loss == again and same_bits(grad, grad_again)


def test_intervals_hold_the_real_number():
    generator = torch.Generator().manual_seed(9)
    values = (torch.randn(400, generator=generator) * torch.logspace(-6, 1, 400)).numpy()
    x = _real.Real.of(values, 0)
    y = _real.Real.of(values[::-1].copy(), 0)
    wide = [(mpf(float(a)), mpf(float(b))) for a, b in zip(values, values[::-1], strict=True)]
    for interval, formula in (
        (x.exp(), lambda a, b: mp.exp(a)),
        ((x - y).exp(), lambda a, b: mp.exp(a - b)),
        ((x - y).exp_minus_1(), lambda a, b: mp.expm1(a - b)),
        ((x - y).exp_minus_1_minus_x(), lambda a, b: mp.expm1(a - b) - (a - b)),
        (((x - y).exp() + 1).inverse() * y, lambda a, b: b / (1 + mp.exp(a - b))),
        ((x * y).minimum(x + 0.1), lambda a, b: min(a * b, a + mpf(0.1))),
        (x.clip(-0.3, Fraction(1, 3)), lambda a, b: min(max(a, mpf(-0.3)), mpf(1) / 3)),
    ):
        for low, high, pair in zip(interval.low, interval.high, wide, strict=True):
            assert mpf(low) <= formula(*pair) <= mpf(high)
            assert high - low <= 2.0**-40 * max(abs(low), abs(high))


def test_numbers_that_f64_cannot_hold():
    near, far = torch.tensor([0.0, -3e38]), torch.tensor([-3e38, 0.0])
    huge = f32(3e38)
    assert losses.ratio(near, far).tolist() == [math.inf, 0.0]
    assert losses.kl(near, far, "k1").tolist() == [huge, -huge]
    assert losses.kl(near, far, "k2").tolist() == [math.inf, math.inf]
    assert losses.kl(near, far, "k3").tolist() == [huge, math.inf]


def test_ties_are_settled_in_rational_numbers():
    """A clipped term is (1 + clip_high) A: with A = 1 and 2^-24 a tie, to the even below; with 3 * 2^-24 above."""
    one = torch.ones(1, 1)
    for clip_high, wanted in ((2.0**-24, -1.0), (3 * 2.0**-24, -1.0 - 2.0**-22)):
        args = (-one, -5 * one, one[0], one > 0)
        assert losses.policy_loss(*args, kind="grpo", clip_high=clip_high).item() == wanted
    # The policy has not moved: exactly -A, whatever the loss.
    for kind in ("grpo", "dapo", "gspo"):
        assert losses.policy_loss(-one, -one, 3 * one[0], one > 0, kind=kind).item() == -3.0
    assert losses.policy_loss(-one, -one, 3 * one[0], one > 0, kind="sapo").item() == -6.0


def test_what_is_not_finite_and_what_counts_for_nothing():
    given, ref = batch(3)
    more = options("grpo", ref)
    logprobs, old, advantages, mask = given
    hidden = old.clone()
    hidden[~mask] = torch.nan
    assert losses.policy_loss(logprobs, hidden, advantages, mask, **more) == losses.policy_loss(*given, **more)
    hidden[2, 0] = -torch.inf
    assert losses.policy_loss(logprobs, hidden, advantages, mask, **more).isnan()
    assert losses.policy_loss(logprobs, hidden, advantages, mask, kind="gspo").isnan()
    leaf = logprobs.clone().requires_grad_()
    losses.policy_loss(leaf, hidden, advantages, mask, kind="gspo").backward()
    assert leaf.grad[2][mask[2]].isnan().all() and leaf.grad[1].isfinite().all()
    nothing = losses.policy_loss(logprobs, old, advantages, mask & False, **more)
    assert nothing.isnan()
    for kind in losses.KINDS:
        empty = losses.policy_loss_part(*(x[:0] for x in given), kind=kind, max_length=9 if kind == "dr_grpo" else 0)
        assert empty.count == 0 and math.isnan(empty.loss())


def test_means_and_refusals():
    tiny = torch.tensor([2.0**-149, 2.0**-149, -(2.0**-126)])
    assert losses.mean(tiny, 1).item() == 2.0**-148 - 2.0**-126
    assert losses.mean(torch.tensor([3e38, 3e38])).item() == f32(3e38) and losses.mean(tiny, 0).isnan()
    assert losses.mean(torch.tensor([math.inf, 1.0])).item() == math.inf
    values = torch.tensor([1.0, 2.0**-30, -1.0, 3.0], requires_grad=True)
    assert losses.mean(values, 3).item() == round_once((Fraction(2) ** -30 + 3) / 3)
    losses.mean(values, 3).backward()
    assert values.grad.tolist() == [round_once(Fraction(1, 3))] * 4
    given, ref = batch()
    for message, arguments in (
        ("kind is 'ppo'", {"kind": "ppo"}),
        ("ref_logprobs and a kl_weight", {"kl_weight": 0.1}),
        ("max_length is 0; dr_grpo expects", {"kind": "dr_grpo"}),
        ("expected finite numbers", {"clip_low": 1.5}),
        ("and not with gspo", {"kind": "gspo", "ref_logprobs": ref, "kl_weight": 0.1}),
    ):
        with pytest.raises(ValueError, match=message):
            losses.policy_loss(*given, **arguments)
    with pytest.raises(ValueError, match="gspo expects one a sequence"):
        losses.policy_loss(*given[:2], given[0], given[3], kind="gspo")
    with pytest.raises(ValueError, match=r"old_logprobs: shape is \[2, 7\]; expected \[5, 7\]"):
        losses.policy_loss(given[0], given[1][:2], *given[2:])
    with pytest.raises(ValueError, match="logprobs: torch.float64; expected torch.float32"):
        losses.policy_loss(given[0].double(), *given[1:])
