"""Functions of given logits, of numpy arrays and torch tensors, against mpmath."""

import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp

torch = pytest.importorskip("torch")
from expected import round_once, same_bits  # noqa: E402
from expected_gradients import fraction, real  # noqa: E402

import isologit  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rows(count=4, vocab=30, dtype=torch.float32, seed=0, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(count, vocab, generator=generator)).to(dtype)


def certain(vocab=30):
    """One token of p = 1 - e^-30 or so, the others a midpoint of two f32 numbers or so below it."""
    z = rows(1, vocab, seed=7, scale=0.5) - 20
    z[0, 3] = 20.25
    return z


def exact(logits, temperature=1.0):
    """What each row says, at 100 digits: log_softmax, lse, entropy."""
    t = torch.tensor(temperature, dtype=torch.float32).expand(logits.shape[0]).tolist()
    found = []
    with mp.workdps(100):
        for row, divisor in zip(logits.double().tolist(), t, strict=True):
            z = [Fraction(round_once(Fraction(x) / Fraction(divisor))) for x in row]
            lse = mp.log(mp.fsum(mp.exp(real(x)) for x in z))
            logprobs = [real(x) - lse for x in z]
            found.append((logprobs, lse, -mp.fsum(mp.exp(x) * x for x in logprobs)))
    return found


def rounded(values):
    return torch.tensor([round_once(fraction(x)) for x in values], dtype=torch.float32)


def expected_log_softmax(logits, temperature=1.0):
    return torch.stack([rounded(logprobs) for logprobs, _, _ in exact(logits, temperature)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [rows, certain])
def test_log_softmax_is_rounded_once(dtype, make):
    logits = make().to(dtype)
    assert same_bits(isologit.log_softmax(logits), expected_log_softmax(logits))


def test_the_usual_ways_round_otherwise():
    logits = torch.cat([rows(8, 30), certain()])
    right = expected_log_softmax(logits)
    assert not same_bits(torch.log_softmax(logits, -1), right)
    assert not same_bits(torch.log_softmax(logits.double(), -1).float(), right)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_others_are_rounded_once(dtype):
    logits = torch.cat([rows(5), certain()]).to(dtype)
    found = exact(logits)
    assert same_bits(isologit.lse_of_logits(logits), rounded(lse for _, lse, _ in found))
    assert same_bits(isologit.entropy_of_logits(logits), rounded(entropy for _, _, entropy in found))
    ids = torch.tensor([0, 29, 3, 7, 8, 3])
    picked = rounded(logprobs[i] for (logprobs, _, _), i in zip(found, ids.tolist(), strict=True))
    assert same_bits(isologit.logprobs_of_logits(logits, ids), picked)
    assert same_bits(isologit.logprobs_of_logits(logits, ids.int()), picked)


def test_shapes_and_ignored_ids():
    logits = rows(6).reshape(2, 3, 30)
    all_ids = isologit.log_softmax(logits)
    assert all_ids.shape == logits.shape
    assert isologit.lse_of_logits(logits).shape == isologit.entropy_of_logits(logits).shape == (2, 3)
    several = torch.tensor([[[1, 2], [3, -100], [5, 5]], [[-100, -100], [29, 0], [1, 1]]])
    got = isologit.logprobs_of_logits(logits, several)
    ignored = several == -100
    assert same_bits(got, all_ids.gather(-1, several.masked_fill(ignored, 0)).masked_fill(ignored, 0))
    one = logits[0, 0]
    assert same_bits(isologit.log_softmax(one), all_ids[0, 0])
    assert same_bits(isologit.logprobs_of_logits(one, torch.tensor(4)), all_ids[0, 0, 4])
    assert isologit.log_softmax(logits[:0]).shape == (0, 3, 30)
    assert isologit.logprobs_of_logits(logits, several[:, :, :0]).shape == (2, 3, 0)


def test_strides():
    wide = rows(7, 50)
    for view in (wide[:, 3:40], wide[::2, 5:], wide.t(), wide[:1].expand(3, 50), wide[:, ::2]):
        assert same_bits(isologit.log_softmax(view), isologit.log_softmax(view.contiguous().clone()))
        assert same_bits(
            torch.from_numpy(isologit.log_softmax(view.numpy())), isologit.log_softmax(view.contiguous().clone())
        )


def test_temperature():
    logits = rows(3)
    for temperature in (0.7, torch.tensor(0.7), torch.tensor([0.3, 1.0, 2.5])):
        plain = temperature.tolist() if isinstance(temperature, torch.Tensor) else temperature
        assert same_bits(isologit.log_softmax(logits, temperature=temperature), expected_log_softmax(logits, plain))
        array = isologit.log_softmax(logits.numpy(), temperature=np.asarray(plain))
        assert same_bits(torch.from_numpy(array), expected_log_softmax(logits, plain))


def test_special_rows():
    inf, nan = math.inf, math.nan
    logits = torch.tensor([[nan, 1, 2], [inf, 1, 2], [-inf, -inf, -inf], [-inf, 5, -inf], [-inf, 0, 0]])
    got = isologit.log_softmax(logits)
    assert got[:3].isnan().all() and got[3].tolist() == [-inf, 0, -inf]
    assert got[4].tolist() == [-inf, -0.6931471824645996, -0.6931471824645996]
    lse = isologit.lse_of_logits(logits)
    assert lse[0].isnan() and lse[1:4].tolist() == [inf, -inf, 5]
    assert isologit.logprobs_of_logits(logits, torch.tensor([0, 0, 0, 0, 0])).tolist()[3:] == [-inf, -inf]


def test_numpy_is_torch():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    logits = rows(4).to(torch.bfloat16)
    array = logits.float().numpy().astype(ml_dtypes.bfloat16)
    ids = np.array([1, -100, 3, 29], dtype=np.int32)
    for got, right in (
        (isologit.log_softmax(array), isologit.log_softmax(logits)),
        (isologit.lse_of_logits(array), isologit.lse_of_logits(logits)),
        (isologit.entropy_of_logits(array), isologit.entropy_of_logits(logits)),
        (isologit.logprobs_of_logits(array, ids), isologit.logprobs_of_logits(logits, torch.from_numpy(ids))),
    ):
        assert isinstance(got, np.ndarray) and got.dtype == np.float32
        assert same_bits(torch.from_numpy(got), right)


def test_kernels_and_threads():
    logits = torch.cat([rows(5, 3000), certain(3000)])
    right = isologit.log_softmax(logits)
    for kernel in isologit.kernels():
        if kernel.runnable and kernel.arithmetic == "exact" and kernel.name != "cuda":
            few = logits[:, :40] if kernel.name == "reference" else logits
            expected = isologit.log_softmax(few) if kernel.name == "reference" else right
            assert same_bits(isologit.log_softmax(few, kernel=kernel.name, threads=2), expected)
    for threads in (1, 3, 16):
        assert same_bits(isologit.log_softmax(logits, threads=threads), right)
        assert same_bits(isologit.log_softmax(logits[:1], threads=threads), right[:1])


def dz(logits, g, temperature=1.0):
    """(g - p sum g) / T, rounded once."""
    found = []
    with mp.workdps(100):
        for (logprobs, _, _), upstream in zip(exact(logits, temperature), g.tolist(), strict=True):
            total = mp.fsum(upstream)
            t = real(float(temperature))
            found.append(rounded((mp.mpf(u) - mp.exp(x) * total) / t for x, u in zip(logprobs, upstream, strict=True)))
    return torch.stack(found)


def test_gradient_of_log_softmax():
    logits = torch.cat([rows(3), certain()]).requires_grad_()
    one_hot = torch.zeros(4, 30)
    one_hot[:, 3] = -0.3
    for g in (rows(4, seed=1), one_hot):
        for temperature in (1.0, 0.7):
            (got,) = torch.autograd.grad(isologit.log_softmax(logits, temperature=temperature), logits, g)
            assert same_bits(got, dz(logits.detach(), g, temperature))


def test_gradient_of_logprobs_is_that_of_log_softmax():
    logits = torch.cat([rows(3), certain()]).requires_grad_()
    ids = torch.tensor([[1, 2], [3, 3], [-100, 5], [3, 0]])
    a = rows(4, 2, seed=3)
    (got,) = torch.autograd.grad(isologit.logprobs_of_logits(logits, ids), logits, a)
    g = torch.zeros(4, 30, dtype=torch.float64)
    kept = ids != -100
    g.scatter_add_(1, ids.masked_fill(~kept, 0), a.double() * kept)
    assert same_bits(got, dz(logits.detach(), g))


@pytest.mark.parametrize("name", ["lse_of_logits", "entropy_of_logits"])
def test_gradients_of_lse_and_entropy(name):
    logits = rows(3).requires_grad_()
    g = torch.tensor([0.5, -2.0, 1.25])
    (got,) = torch.autograd.grad(getattr(isologit, name)(logits), logits, g)
    right = []
    with mp.workdps(100):
        for (logprobs, _, entropy), b in zip(exact(logits.detach()), g.tolist(), strict=True):
            share = [mp.exp(x) * (1 if name == "lse_of_logits" else -(x + entropy)) for x in logprobs]
            right.append(rounded(b * x for x in share))
    assert same_bits(got, torch.stack(right))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_in_the_type_of_the_logits(dtype):
    logits = rows(3, dtype=dtype).requires_grad_()
    g = rows(3, seed=2)
    (got,) = torch.autograd.grad(isologit.log_softmax(logits), logits, g)
    assert same_bits(got, dz(logits.detach(), g).to(dtype))


def test_operators():
    logits = rows(3).requires_grad_()
    one = torch.ones(1)
    ids = torch.tensor([[1], [2], [-100]])
    for output, token_ids in (("log_softmax", None), ("logprobs", ids), ("lse", None), ("entropy", None)):
        args = (logits, one, token_ids, -100, output, 1, [0], "")
        torch.library.opcheck(torch.ops.isologit.of_logits.default, args)


def test_compiles_without_a_break():
    logits = rows(3)

    def loss(logits):
        return isologit.log_softmax(2 * logits, temperature=0.5).exp().sum() + isologit.lse_of_logits(logits).sum()

    assert same_bits(torch.compile(loss, fullgraph=True, backend="eager")(logits), loss(logits))


@pytest.mark.parametrize("as_array", [False, True])
def test_what_is_refused(as_array):
    def given(x):
        return x.numpy() if as_array else x

    logits = rows(3)
    with pytest.raises(ValueError, match=r"token_ids\[1\]: 30 is outside the vocabulary \[0, 30\)"):
        isologit.logprobs_of_logits(given(logits), given(torch.tensor([0, 30, 1])))
    with pytest.raises(ValueError, match=r"token_ids: shape is \[2\]; expected \[3\]"):
        isologit.logprobs_of_logits(given(logits), given(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="token_ids: dtype is"):
        isologit.logprobs_of_logits(given(logits), given(torch.tensor([0.0, 1.0, 2.0])))
    with pytest.raises(ValueError, match="logits: dtype is"):
        isologit.log_softmax(given(logits.double()))
    with pytest.raises(ValueError, match=r"logits: shape is \[\]; expected \[\.\.\., V\]"):
        isologit.log_softmax(given(logits[0, 0]))
    with pytest.raises(ValueError, match=r"temperature: shape is \[2\]; expected a number, or \[3\]"):
        isologit.log_softmax(given(logits), temperature=given(torch.ones(2)))
    with pytest.raises(ValueError, match=r"temperatures\[0\]: 0; expected a finite number above 0"):
        isologit.log_softmax(given(logits), temperature=0)
    with pytest.raises(ValueError, match="kernel: 'none' is unknown"):
        isologit.log_softmax(given(logits), kernel="none")
