"""Every adapter of integrations, in the place of the package's own function, against that function in f64."""

import pytest

torch = pytest.importorskip("torch")
import foreign  # noqa: E402
from adapters import CASES, VOCAB, package  # noqa: E402
from expected import same_bits  # noqa: E402

from isologit.integrations import _table  # noqa: E402

pytestmark = pytest.mark.usefixtures("group")
ROWS, SIZE, T = 8, 16, float(torch.tensor(0.7))
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    found = CASES[request.param]
    with package(found.key):
        yield found


def problem(case, dtype=torch.float32, few_bits=False):
    """Rows of hidden states or logits, a weight, and ids. few_bits: all logits are f32."""
    generator = torch.Generator().manual_seed(4)

    def numbers(*shape):
        if few_bits:
            return torch.randint(-8, 8, shape, generator=generator) / 8.0
        return torch.randn(shape, generator=generator)

    hidden, weight = numbers(ROWS, SIZE).to(dtype), numbers(VOCAB, SIZE).to(dtype)
    rows = (4 * numbers(ROWS, VOCAB)).to(dtype) if case.from_logits else hidden
    return rows.requires_grad_(), weight.requires_grad_(), torch.randint(0, VOCAB, (ROWS,), generator=generator)


def leaves(case, rows, weight):
    return [rows] if case.from_logits else [rows, weight]


def upstreams(results, every_row=False):
    """Of each result, of every second row unless of every one."""
    generator = torch.Generator().manual_seed(7)
    found = [torch.randn(result.shape, generator=generator) for result in results]
    return found if every_row else [g * (torch.arange(len(g)) % 2 == 1) for g in found]


def is_right(got, want):
    """Where f32 (or bf16 by way of it) is what a number of f64 is rounded to, if that is off by no more than 2^-38."""
    low, high = ((want * (1 + off)).float().to(got.dtype) for off in (-(2.0**-38), 2.0**-38))
    assert (low == high).double().mean() > 0.9
    return bool(((torch.minimum(low, high) <= got) & (got <= torch.maximum(low, high))).all())


class Rooms:
    """How far what the package makes in f64 may be off, of the i-th result: at an ulp for each rounding of logits that
    changes them."""

    def __init__(self, case, wide, ids, temperature, roundings):
        self.case, self.wide, self.ids, self.temperature, self.roundings = case, wide, ids, temperature, roundings
        self.largest = case.logits(*wide).detach().abs().max() / temperature

    def of_values(self, i):
        """A logprob moves by at most twice what logits do; an entropy by the spread of ln p too."""
        return 2 * self.roundings * foreign.ulp(self.largest) * (2 * self.largest + 2 if i == 1 else 1)

    def of_gradients(self, i, upstream):
        """Of logits what their rounding moves; of hidden states and the weight the fast gradients' bound of CONTRACT.md
        5, twice that where logits were rounded."""
        if self.case.from_logits:
            return [2 * self.of_values(i) * upstream.abs()[:, None] / self.temperature]
        z = self.case.logits(*self.wide).detach().requires_grad_()
        (dz,) = torch.autograd.grad(self.case.formulas(z, self.ids, self.temperature)[i], z, upstream.double())
        unit = 2.0 ** (-15 if self.roundings else -16)
        rows, weight = (leaf.detach().norm(dim=-1, keepdim=True) for leaf in self.wide)
        return [unit * dz.abs() @ weight, unit * dz.abs().T @ rows]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("case", "few_bits", "temperature"),
    [
        (name, few_bits, temperature)
        for name, case in CASES.items()
        for few_bits, temperature in ((True, 1.0), (False, 1.0), (False, T))
        if temperature == 1 or case.has_temperature
    ],
    indirect=["case"],
)
def test_values_and_gradients_are_those_of_the_package_in_f64(case, few_bits, temperature, dtype):
    rows, weight, ids = problem(case, dtype, few_bits)
    wide = [leaf.detach().double().requires_grad_() for leaf in (rows, weight)]
    roundings = (not few_bits and not case.from_logits) + (temperature != 1)
    rooms = Rooms(case, wide, ids, temperature, roundings)
    with case.in_f64():
        wanted = case.own(*wide, ids, temperature)
        upstream = upstreams(wanted)
        exact = gradients_of_each(wanted, leaves(case, *wide), [g.double() for g in upstream])
    with case.ours():
        results = case.call(rows, weight, ids, temperature)
    found = gradients_of_each(results, leaves(case, rows, weight), upstream)

    for i, (got, want) in enumerate(zip(results, wanted, strict=True)):
        assert got.dtype == torch.float32 and want.dtype == torch.float64 and got.shape == want.shape
        assert want.abs().max() > 0.1 and (roundings or is_right(got, want))
        assert ((got.double() - want).abs() <= rooms.of_values(i) + foreign.ulp(want)).all()
        for g, e, room in zip(found[i], exact[i], rooms.of_gradients(i, upstream[i]), strict=True):
            assert g.dtype == dtype and e.abs().max() > 0.01
            assert roundings or not case.from_logits or is_right(g, e)
            ulp = foreign.ulp(e) * (1 if dtype == torch.float32 else 2**16)
            assert ((g.double() - e).abs() <= room + ulp).all()
        assert not found[i][0][::2].any() and found[i][0][1:-1:2].any(-1).all()


def gradients_of_each(results, of, upstream):
    return [torch.autograd.grad(x, of, g, retain_graph=True) for x, g in zip(results, upstream, strict=True)]


def run(case, rows, weight, ids, upstream=None):
    """Results and gradients, of `upstream` of the first results or of a random one of all."""
    rows, weight = (leaf.detach().requires_grad_() for leaf in (rows, weight))
    with case.ours():
        results = case.call(rows, weight, ids, 1.0)
    if upstream is None:
        return results, torch.autograd.grad(results, leaves(case, rows, weight), upstreams(results, every_row=True))
    return results, torch.autograd.grad(results[0], leaves(case, rows, weight), upstream)


@pytest.mark.parametrize("row", [1, 4])
def test_an_upstream_of_one_row_reaches_it_alone(case, row):
    results, _ = run(case, *problem(case))
    whole, one = upstreams(results, every_row=True)[0], torch.zeros(len(results[0]))
    one[row] = whole[row]
    _, (of_all, *_) = run(case, *problem(case), whole)
    _, (of_one, *_) = run(case, *problem(case), one)
    assert of_all.count_nonzero() > of_one.count_nonzero() and same_bits(of_one[row], of_all[row])
    assert of_one[row].any() and not of_one[:row].any() and not of_one[row + 1 :].any()


def test_a_label_of_minus_100_has_no_logprob_and_no_gradient(case):
    rows, weight, ids = problem(case)
    right, _ = run(case, rows, weight, ids)
    upstream = upstreams(right, every_row=True)[0]
    at_zero = upstream.clone()
    at_zero[2] = 0
    _, wanted = run(case, rows, weight, ids, at_zero)
    ids[2] = -100
    rows.detach()[2] = torch.nan  # nothing of it is in anything else
    (logprobs, *_), gradients = run(case, rows, weight, ids, upstream)
    assert logprobs[2] == 0
    right[0].detach()[2] = 0
    assert same_bits(logprobs.detach(), right[0].detach())
    assert not gradients[0][2].any()
    assert all(same_bits(one, other) for one, other in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize("bad", [VOCAB, -1, 2**40])
def test_a_label_out_of_range_is_an_error(case, bad):
    rows, weight, ids = problem(case)
    ids[2] = bad
    with pytest.raises(ValueError, match=rf"{bad} is outside the vocabulary \[0, {VOCAB}\)"), case.ours():
        case.call(rows, weight, ids, 1.0)


def strided(x):
    return torch.stack([x, x], -1)[..., 1]


def test_views_are_what_they_show(case):
    rows, weight, ids = problem(case)
    results, gradients = run(case, rows, weight, ids)
    apart = torch.cat([weight, weight], 1)[:, SIZE:]
    for view in (strided(rows), rows.mT.contiguous().mT):
        assert not view.is_contiguous() and not apart.is_contiguous()
        found, of_views = run(case, view, apart, strided(ids))
        for one, other in zip((*found, *of_views), (*results, *gradients), strict=True):
            assert same_bits(one.detach(), other.detach())
    if not case.from_logits:  # a weight is not copied
        with pytest.raises(ValueError, match="weight: strides are .*; expected elements of a row to be adjacent"):
            run(case, rows, weight.mT.contiguous().mT, ids)


def test_no_rows_at_all(case):
    rows, weight, ids = problem(case)
    results, gradients = run(case, rows[:0], weight, ids[:0])
    assert all(result.shape == (0,) and result.dtype == torch.float32 for result in results)
    assert [gradient.shape for gradient in gradients] == [x.shape for x in leaves(case, rows[:0], weight)]
    assert not any(gradient.any() for gradient in gradients)


def test_every_package_is_in_the_table():
    plugins = {key for key, package in _table.PACKAGES.items() if not package.names}
    assert {case.key for case in CASES.values()} == _table.PACKAGES.keys() - plugins
