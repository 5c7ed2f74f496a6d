"""linear_cross_entropy: its losses and gradients against rational arithmetic and mpmath."""

import math
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import expected  # noqa: E402
import expected_gradients as by_definition  # noqa: E402
import expected_scores  # noqa: E402
from expected import round_once, same_bits  # noqa: E402
from gradient_problem import ROWS, dz_of, randn, random_mask, tensors  # noqa: E402

import isologit  # noqa: E402
import isologit._torch.losses  # noqa: E402  (registers the operators)
from isologit._cross_entropy import LossOptions, reduced_losses  # noqa: E402
from isologit._rounding import sum_of_products  # noqa: E402

REDUCTIONS = ["mean", "sum", "none"]


def f32(x):
    return Fraction(torch.tensor(x, dtype=torch.float32).item())


def row_losses(hidden, weight, bias, target, smoothing, z_loss, mask=None):
    """The losses, and the f32 lse of each row."""
    z = expected.logits(hidden.detach(), weight.detach(), None if bias is None else bias.detach()).tolist()
    losses, lses = [], []
    for n, (row, t) in enumerate(zip(z, target.tolist(), strict=True)):
        support = range(len(row)) if mask is None else mask[n].nonzero().flatten().tolist()
        scores = expected_scores.of_row(row, row, list(support), [max(t, 0)])
        lses.append(scores["lse"])
        if t == -100:
            losses.append(0.0)
        elif math.isinf(scores["logprobs"][0]) and smoothing < 1:
            losses.append(math.inf)
        else:
            lse, mean = Fraction(scores["lse"]), Fraction(scores["mean_logits"])
            smoothed = f32(smoothing) * (lse - mean)
            if smoothing < 1:
                smoothed -= (1 - f32(smoothing)) * Fraction(scores["logprobs"][0])
            losses.append(round_once(smoothed + f32(z_loss) * lse * lse))
    return losses, lses


def reduce(losses, target, reduction, ignore_index=-100):
    counted = [Fraction(x) for x, t in zip(losses, target.tolist(), strict=True) if t != ignore_index]
    if reduction == "none":
        return torch.tensor(losses)
    return torch.tensor(round_once(sum(counted, Fraction(0)) / (len(counted) if reduction == "mean" else 1)))


def upstream_of_rows(g, target, reduction, lses, smoothing, z_loss):
    """Of logprobs, lse and mean_logits, each product rounded once."""
    n = int((target != -100).sum())
    each = [Fraction(x.item()) for x in (g if reduction == "none" else g.expand(len(target)))]
    if reduction == "mean":
        each = [Fraction(round_once(x / n)) for x in each]
    each = [Fraction(0) if t == -100 else x for x, t in zip(each, target.tolist(), strict=True)]
    of_lse = [
        round_once((f32(smoothing) + 2 * f32(z_loss) * Fraction(lse)) * x) for x, lse in zip(each, lses, strict=True)
    ]
    of_mean = [round_once(-f32(smoothing) * x) for x in each]
    return (
        torch.tensor([round_once((f32(smoothing) - 1) * x) for x in each]),
        torch.tensor(of_lse),
        torch.tensor(of_mean),
    )


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.0, 0.3), (0.1, 0.0), (0.3, 0.01), (1.0, 0.0)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_and_gradients(reduction, smoothing, z_loss):
    hidden, weight, bias, target = tensors(torch.float32, torch.float32, torch.float32)
    target[2] = -100
    losses, lses = row_losses(hidden, weight, bias, target, smoothing, z_loss)
    options = {"reduction": reduction, "label_smoothing": smoothing, "z_loss": z_loss}
    got = isologit.linear_cross_entropy(hidden, weight, target, bias=bias, gradients="exact", **options)
    wanted = reduce(losses, target, reduction)
    assert same_bits(got.detach(), wanted)
    arrays = (x.detach().numpy() for x in (hidden, weight, target))
    numpy = isologit.linear_cross_entropy(*arrays, bias=bias.detach().numpy(), **options)
    assert isinstance(numpy, np.ndarray) and same_bits(torch.from_numpy(np.array(numpy)), wanted)
    module = isologit.nn.LMHead(torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach()))
    assert same_bits(module.cross_entropy(hidden, target, **options).detach(), wanted)

    g = randn(ROWS) if reduction == "none" else torch.tensor(0.7)
    a, b, d = upstream_of_rows(g, target, reduction, lses, smoothing, z_loss)
    ids, none = target.clamp(min=0)[:, None], torch.zeros(ROWS)
    dz = dz_of(hidden, weight, bias, ids, a[:, None], b, none, d_mean_logits=d)
    expected_gradients = by_definition.gradients(dz, hidden.detach(), weight.detach())
    for grad, one in zip(torch.autograd.grad(got, [hidden, weight, bias], g), expected_gradients, strict=True):
        assert same_bits(grad, one)


def test_smoothing_over_a_support():
    hidden, weight, bias, target = tensors(torch.float32, torch.float32, torch.float32)
    mask = random_mask()
    mask[torch.arange(ROWS), target] = True
    mask[2, target[2]] = False
    for smoothing in (0.2, 1.0):
        losses, lses = row_losses(hidden, weight, bias, target, smoothing, 0.0, mask)
        options = {"bias": bias, "mask": mask, "label_smoothing": smoothing, "reduction": "none"}
        got = isologit.linear_cross_entropy(hidden, weight, target, gradients="exact", **options)
        assert same_bits(got.detach(), torch.tensor(losses)) and (smoothing < 1) == bool(got[2] == math.inf)
        g = randn(ROWS)
        a, b, d = upstream_of_rows(g, target, "none", lses, smoothing, 0.0)
        dz = dz_of(hidden, weight, bias, target[:, None], a[:, None], b, torch.zeros(ROWS), mask, d_mean_logits=d)
        expected_gradients = by_definition.gradients(dz, hidden.detach(), weight.detach())
        for grad, one in zip(torch.autograd.grad(got, [hidden, weight, bias], g), expected_gradients, strict=True):
            assert same_bits(grad, one)


def test_smoothing_is_that_of_torch():
    hidden, weight, bias, target = tensors(torch.float32, torch.float32, torch.float32)
    target[2] = -100
    got = isologit.linear_cross_entropy(hidden, weight, target, bias=bias, label_smoothing=0.1)
    z = torch.nn.functional.linear(hidden.double(), weight.double(), bias.double())
    wanted = torch.nn.functional.cross_entropy(z, target, label_smoothing=0.1)
    assert abs(got.item() - wanted.item()) < 1e-6
    leaves = [hidden, weight, bias]
    for one, other in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_shapes_and_rows_that_are_ignored():
    hidden, weight, _, target = tensors()
    target[1] = 7
    each = isologit.linear_cross_entropy(hidden, weight, target, reduction="none", ignore_index=7)
    assert each[1] == 0 and not torch.signbit(each[1]) and (each[[0, 2, 3, 4]] > 0).all()
    shaped = isologit.linear_cross_entropy(
        hidden.reshape(1, ROWS, 1, -1), weight, target.reshape(1, ROWS, 1), reduction="none", ignore_index=7
    )
    assert shaped.shape == (1, ROWS, 1) and same_bits(shaped.flatten().detach(), each.detach())
    none = torch.full_like(target, -100)
    assert isologit.linear_cross_entropy(hidden, weight, none).isnan()
    total = isologit.linear_cross_entropy(hidden, weight, none, reduction="sum", z_loss=0.5)
    assert total == 0 and torch.autograd.grad(total, weight)[0].count_nonzero() == 0


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic):
    hidden, weight, _, target = tensors()

    def loss(hidden, weight, target):
        return isologit.linear_cross_entropy(
            hidden * 2, weight, target, label_smoothing=0.1, z_loss=0.1, temperature=0.7
        )

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (ROWS, 3):
        results = []
        for function in (compiled, loss):
            value = function(hidden[:rows], weight, target[:rows])
            results.append((value.detach(), *torch.autograd.grad(value, [hidden, weight])))
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_opcheck(reduction):
    logprobs, lse, mean = (randn(7, seed=seed).requires_grad_() for seed in range(3))
    target = torch.tensor([1, 2, -100, 3, 4, 5, -100])
    ops = torch.ops.isologit
    for values, options in (((None, None), (0.0, 0.0)), ((lse, None), (0.0, 0.5)), ((lse, mean), (0.1, 0.5))):
        torch.library.opcheck(ops.losses.default, (logprobs, *values, target, -100, *options, reduction))
        upstream = randn(7) if reduction == "none" else torch.tensor(0.3)
        values = (upstream, None if values[0] is None else lse.detach())
        torch.library.opcheck(ops.losses_backward.default, (*values, target, -100, *options, reduction))


def test_what_is_refused():
    hidden, weight, _, target = tensors()
    for options, message in (
        ({"reduction": "avg"}, "reduction is 'avg'; expected 'mean', 'sum' or 'none'"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5; expected 0 to 1"),
        ({"label_smoothing": math.nan}, "label_smoothing: nan"),
        ({"z_loss": -1.0}, "z_loss is -1.0; expected a finite number not below 0"),
        ({"z_loss": math.inf}, "z_loss: inf"),
        ({"z_loss": math.nan}, "z_loss: nan"),
    ):
        with pytest.raises(ValueError, match=message):
            isologit.linear_cross_entropy(hidden, weight, target, **options)
    with pytest.raises(ValueError, match="target: 2 ids a row; expected one"):
        isologit.linear_cross_entropy(hidden, weight, torch.stack([target, target], 1))


# Means, sums and products, rounded once


@pytest.mark.parametrize(
    "values",
    [
        [-1.0, -(2.0**-24), -(2.0**-50)],  # past a tie by what f64 still holds
        [-1.0, -(2.0**-24), -(2.0**-149)],  # and by what it does not
        [-1.0, -(2.0**-24)],
        [-(2.0**127)] * 4,
        [-(2.0**-149)] * 2 + [0.0],
        [0.0, 0.0],
        [-1e30, -1e-30, -1.5, -3e7],
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_mean_and_a_sum_are_rounded_once(values, reduction):
    logprobs = np.array(values, np.float32)
    count = len(values) if reduction == "mean" else 1
    wanted = round_once(-sum(map(Fraction, logprobs.tolist())) / count)
    got = reduced_losses(logprobs, None, None, np.zeros(len(values), np.int64), LossOptions(-100, 0.0, 0.0, reduction))
    assert got == wanted and not math.copysign(1.0, got) < 0


@pytest.mark.parametrize(("values", "wanted"), [([-1.0, -math.inf], math.inf), ([-1.0, math.nan], math.nan)])
def test_a_mean_of_special_values(values, wanted):
    got = reduced_losses(
        np.array(values, np.float32), None, None, np.zeros(2, np.int64), LossOptions(-100, 0.0, 0.0, "mean")
    )
    assert np.array_equal(got, np.float32(wanted), equal_nan=True)


def test_sums_of_products_are_rounded_once():
    generator = np.random.default_rng(3)
    scales = 2.0 ** generator.integers(-140, 120, (4, 3000)).astype(np.float64)
    a, b, c, d = (generator.standard_normal((4, 3000)) * scales).astype(np.float32)
    ulp = np.spacing(np.float32(1))
    near = [np.full(3, x, np.float32) for x in (1.0, ulp / 2, 2.0**-70)]
    cases = [
        ((1.0, a), (b, c)),
        ((-1.0, a), (0.25, b), (0.25, c), (2.0**-20, d, d)),
        ((1.0, near[0]), (1.0, near[1]), (near[2], np.array([0, 1, -1], np.float32))),  # on a tie, and to its sides
        ((1.0, a), (-1.0, a)),
        ((1.0, a), (-1.0, a), (2.0**-100, c, b)),
        ((2.0, 0.3, a, b),),
        ((1.0, np.float32(2.0**-149)), (0.5, np.float32(2.0**-149))),
    ]
    for products in cases:
        got = sum_of_products(*products)
        shape = got.shape
        factors = [[np.broadcast_to(np.float32(x), shape).ravel().tolist() for x in product] for product in products]
        for i, value in enumerate(got.ravel().tolist()):
            terms = (math.prod(Fraction(x[i]) for x in product) for product in factors)
            wanted = round_once(sum(terms, Fraction(0)))
            assert value == wanted and (value != 0 or math.copysign(1, value) > 0)
    assert sum_of_products((1.0, np.float32(3e38)), (1.0, np.float32(3e38))) == math.inf
    assert np.isnan(sum_of_products((1.0, np.float32(math.inf)), (-1.0, np.float32(math.inf))))
