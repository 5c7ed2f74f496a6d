"""Results beside a tie that f64 cannot tell from it: what lies there is lost when f64 rounds, and the tie goes to even.

Of every operator a thousand inputs and more on which the definition in f64, rounded once, is wrong (that is asserted: a
library that computed so would fail here). What is right follows from how they are made: the neighbour of the tie on the
side of the term that f64 loses.
"""

import mpmath
import numpy as np
import pytest
import torch
from expected import FORMATS
from test_forward import KERNELS
from test_forward_gradients import rounded

from isologit import forward

SHORT = [torch.bfloat16, torch.float16]
ENOUGH = 1000


def ties(dtype, count=4096):
    """Midpoints between neighbours of the type and these, of both signs, as f64."""
    digits = FORMATS[dtype][0]
    odd = torch.arange(2**digits + 1, 2 ** (digits + 1), 2, dtype=torch.float64)
    exponents = torch.arange(-(count // len(odd)) // 2, count // len(odd) // 2 + 1, dtype=torch.float64)
    odd = odd[torch.arange(len(odd)) % max(len(odd) // count, 1) == 0]
    middle = (odd[None] * 2.0 ** (exponents[:, None] - digits)).flatten()
    unit = 2.0 ** (torch.floor(torch.log2(middle)) - digits)
    middle, unit = torch.cat([middle, -middle]), torch.cat([unit, unit])
    return middle, middle - unit, middle + unit


def products(dtype, left, right):
    """The pairs whose product is a tie, with the neighbours of it towards 0; all f64 numbers of the type."""
    digits = FORMATS[dtype][0]
    left, right = (x.flatten() for x in torch.meshgrid(left, right, indexing="ij"))
    product = left * right
    unit = 2.0 ** (torch.floor(torch.log2(product.abs())) - digits + 1)
    tie = (product / unit) % 1 == 0.5
    left, right, product, unit = (x[tie] for x in (left, right, product, unit))
    return left, right, product - product.sign() * unit / 2


def values(dtype, low, high, step=1):
    """All numbers of a 16-bit type from low to high."""
    bits = torch.arange(2**15, dtype=torch.int16).view(dtype).double()
    return bits[(bits >= low) & (bits < high)][::step]


def assert_right(found, plain, right):
    """found: of each kernel; plain: the same in f64."""
    right = right.reshape(plain.shape)
    wrong = rounded(plain, found[0].dtype).double() != right
    assert wrong.sum() >= ENOUGH, int(wrong.sum())
    for result in found:
        assert torch.equal(result.double(), right)


def signs(like):
    return torch.where(torch.arange(like.numel()) % 3 == 0, 1.0, -1.0).double()


@pytest.mark.parametrize(
    "dtype, weight_dtype", [*((dtype, torch.float32) for dtype in SHORT), (torch.bfloat16, torch.bfloat16)]
)
def test_linear(dtype, weight_dtype):
    middle, below, above = ties(dtype)
    # Below the tie, up to it, and what f64 has no digit for; f16 has no such number, but the weights have.
    x = torch.stack([below, middle - below, torch.ones_like(middle)], 1).to(dtype)
    weight = torch.tensor([[1.0, 1.0, s * 2.0**-80] for s in (1, -1)], dtype=weight_dtype)
    right = torch.stack([above, below], 1)
    plain = x.double() @ weight.double().t()
    assert_right([forward.linear(x, weight, kernel=kernel) for kernel in KERNELS], plain, right)
    bias = torch.tensor([2.0**-80])
    found = [forward.linear(x[:, :2], weight[:1, :2], bias, kernel=kernel) for kernel in KERNELS]
    assert_right(found, plain[:, :1] + bias, above[:, None])


def test_combine():
    middle, below, above = ties(torch.bfloat16)
    x = torch.stack([below, middle - below, torch.ones_like(middle)]).bfloat16()
    for sign, right in ((1.0, above), (-1.0, below)):
        weights = torch.tensor([1.0, 1.0, sign * 2.0**-80])
        plain = (weights.double()[:, None] * x.double()).sum(0)
        assert_right([forward.combine(x, weights, kernel=kernel) for kernel in KERNELS], plain, right)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("one_plus", [False, True])
def test_rms_norm(dtype, one_plus):
    middle, below, above = ties(dtype)
    if one_plus:  # those that are 1 and a number of f32
        middle, below, above = (x[(middle.abs() < 2.0**8) & (middle.abs() > 2.0**-8)] for x in (middle, below, above))
    right = torch.where(middle > 0, below, above)  # by half of epsilon below the tie
    x, weight = torch.ones(1, len(middle), dtype=dtype), (middle - float(one_plus)).float()
    assert torch.equal(weight.double() + float(one_plus), middle)
    plain = x.double() * middle / torch.sqrt(x.double().square().mean(-1, keepdim=True) + 2.0**-70)
    found = [forward.rms_norm(x, weight, 2.0**-70, one_plus_weight=one_plus, kernel=kernel) for kernel in KERNELS]
    assert_right(found, plain, right)


@pytest.mark.parametrize("dtype", SHORT)
def test_layer_norm(dtype):
    middle, below, above = (x.repeat_interleave(2) for x in ties(dtype))
    sign = torch.tensor([1.0, -1.0]).double().repeat(len(middle) // 2)
    x, weight = sign[None].to(dtype), middle.float()
    right = sign * torch.where(middle > 0, below, above)
    centred = x.double() - x.double().mean()
    plain = centred * middle / torch.sqrt(centred.square().mean() + 2.0**-70)
    found = [forward.layer_norm(x, weight, None, 2.0**-70, kernel=kernel) for kernel in KERNELS]
    assert_right(found, plain, right)
    # With nothing below the root that f64 loses, but a bias instead.
    bias = torch.full(weight.shape, 2.0**-90)
    found = [forward.layer_norm(x, weight, bias, 0.0, kernel=kernel) for kernel in KERNELS]
    assert_right(found, centred * middle + bias, torch.where(sign > 0, above, -below))


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_rotary(dtype, layout):
    found, plain, right = [[] for _ in KERNELS], [], []
    frequency = torch.tensor([2.0**-70])
    for factor in (3.0, 5.0, 7.0, 11.0):
        one, _, lower = products(dtype, values(dtype, 2.0**-9, 2.0**9), torch.tensor([factor]).double())
        sign = signs(one)
        x = torch.stack([one, sign * one], 1).to(dtype)[:, None]
        positions = torch.ones(len(one), dtype=torch.int64)
        cosine, sine = torch.cos(frequency.double()), torch.sin(frequency.double())
        a, b = x.double().unbind(-1)
        plain.append(torch.stack([factor * (a * cosine - b * sine), factor * (b * cosine + a * sine)], -1))
        # The first turns to what the second takes of it; the second, of either sign, towards plus.
        upper = 2 * factor * one - lower
        first = torch.where(sign > 0, lower, upper)
        second = torch.where(sign > 0, upper, -lower)
        right.append(torch.stack([first, second], -1)[:, None])
        for kernel, results in zip(KERNELS, found, strict=True):
            options = {"layout": layout, "factor": factor, "kernel": kernel}
            results.append(forward.rotary(x, positions, frequency, **options))
    assert_right([torch.cat(results) for results in found], torch.cat(plain), torch.cat(right))


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("softcap", [0.0, 1000.0])
def test_attention(dtype, softcap):
    middle, below, above = ties(dtype)
    sign = signs(middle)
    q, keys = torch.ones(1, 1, 1, dtype=dtype), torch.tensor([0.0, 0.0, -60.0]).to(dtype).reshape(3, 1, 1)
    rare = sign * 2 * middle.abs().max()
    v = torch.stack([below, above, rare]).to(dtype)[:, None]
    assert torch.equal(v[:2, 0].double().mean(0), middle)
    scores = keys.double().flatten()
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    plain = (scores.softmax(0) @ v[:, 0].double()).reshape(1, 1, -1)
    options = {"scale": 1.0, "causal": False, "softcap": softcap}
    found = [forward.attention(q, keys, v, kernel=kernel, **options) for kernel in KERNELS]
    right = torch.where(sign > 0, above, below)
    assert_right(found, plain, right)
    # A sink draws towards 0.
    options["sinks"] = torch.tensor([-60.0])
    weights = torch.cat([scores[:2], torch.tensor([-60.0]).double()]).softmax(0)[:2]
    plain = (weights @ v[:2, 0].double()).reshape(1, 1, -1)
    found = [forward.attention(q, keys[:2], v[:2], kernel=kernel, **options) for kernel in KERNELS]
    assert_right(found, plain, torch.where(middle > 0, below, above))


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh", "clamped_swish"])
def test_gates(dtype, kind):
    """Open gates: the product of g and u is the tie, and e^-x / (1 + e^-x) of it what f64 loses."""
    shift = 1.0 if kind == "clamped_swish" else 0.0
    every = 1 if dtype == torch.bfloat16 else 3
    wide, up, lower = products(dtype, values(dtype, 40, 88, every), values(dtype, 2.0**-8, 2.0**5.9, every) + shift)
    g, u = wide.to(dtype), (up - shift).to(dtype)
    x = {"silu": wide, "clamped_swish": torch.tensor(1.702).double() * wide}.get(kind)
    if kind == "gelu_tanh":
        x = 2 * (2 / torch.pi) ** 0.5 * (wide + torch.tensor(0.044715).double() * wide**3)
    plain = up * wide / (1 + torch.exp(-x))
    found = [forward.gate(g, u, kind=kind, limit=100.0, kernel=kernel) for kernel in KERNELS]
    assert_right(found, plain, lower)


def test_router():
    """Of two logits, whose difference solves e^d / (e^d + 1) = a tie as nearly as two numbers of f32 can: what f64
    cannot tell is on which side of the tie the first weight lies. The second, 1 less that, is a number of f32."""
    odd = np.arange(2**25 - 2**18 + 1, 2**25 - 2**10, 2**5)
    logits, right = [], []
    with mpmath.workprec(200):
        for number in odd.tolist():
            difference = mpmath.log(mpmath.mpf(number) / (2**25 - number))
            first = np.float32(float(difference))
            second = np.float32(float(mpmath.mpf(float(first)) - difference))
            logits.append((first, second))
            is_above = mpmath.mpf(float(first)) - mpmath.mpf(float(second)) > difference
            right.append((number + (1 if is_above else -1), 2**25 - number))
    logits = torch.tensor(np.array(logits))
    found = [forward.router(logits, 2, kernel=kernel) for kernel in KERNELS]
    assert all(torch.equal(ids, torch.tensor([0, 1]).expand_as(ids)) for _, ids in found)
    right = torch.tensor(right, dtype=torch.float64) * 2.0**-25
    assert_right([weights for weights, _ in found], logits.double().softmax(-1), right)


def squares_beside_ties():
    """g, u and g^2 u rounded, for f32 whose g^2 u lies so near to a tie that f64 rounds to it: of an odd g of some bits
    u solves g^2 u = 2^(k - 1) + r modulo 2^k, k being the digits that f32 drops."""
    found = []
    for bits in (16, 17, 18, 19):
        g = np.arange(2 ** (bits - 1) + 1, 2**bits, 2, dtype=np.uint64)
        square = g * g
        inverse = square.copy()
        for _ in range(6):  # Newton's method doubles its digits
            inverse *= np.uint64(2) - square * inverse
        for k in (2 * bits - 1, 2 * bits):
            reach = 2 ** (k - 30)  # half of the digits that f64 drops
            for r in [*range(-reach, 0), *range(1, reach + 1)]:
                u = np.uint64(2 ** (k - 1) + r) * inverse & np.uint64(2**k - 1)
                for i in np.flatnonzero((u >= 2**23) & (u < 2**24)):
                    product = int(square[i]) * int(u[i])
                    if product.bit_length() == 24 + k:
                        found.append((int(g[i]), int(u[i]), (product >> k) + (r > 0) << k))
    return torch.tensor(found, dtype=torch.float64).t()


def test_relu_squared():
    g, u, right = squares_beside_ties()
    found = [forward.gate(g.float(), u.float(), kind="relu_squared", kernel=kernel) for kernel in KERNELS]
    assert_right(found, g * g * u, right)


def test_residual():
    middle, below, above = ties(torch.bfloat16)
    sign = signs(middle)
    x, a, b = below, middle - below, sign * 2.0**-80
    found = [forward.residual(*(y.bfloat16() for y in (x, a, b)), kernel=kernel) for kernel in KERNELS]
    assert_right(found, x + a + b, torch.where(sign > 0, above, below))


def test_residual_in_f32():
    """x + (1 + j u)(1 - j u) h, u = 2^-23 and h half a digit of x, is below the tie by j^2 u^2 h."""
    plain, right, found = [], [], [[] for _ in KERNELS]
    odd = torch.arange(2**23 + 1, 2**23 + 2**12, 2, dtype=torch.float64)  # whose ties go up
    for j in (1, 3, 5):
        multiplier, a = 1 + j * 2.0**-23, 0.5 * (1 - j * 2.0**-23)
        x, half = odd.float(), torch.full(odd.shape, a).float()
        plain.append(x.double() + multiplier * half.double())
        right.append(odd)
        for kernel, results in zip(KERNELS, found, strict=True):
            results.append(forward.residual(x, half, multiplier=multiplier, kernel=kernel))
    assert_right([torch.cat(results) for results in found], torch.cat(plain), torch.cat(right))
