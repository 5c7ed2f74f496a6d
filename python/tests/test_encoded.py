"""Weights of f8 with scales, and of f64: logits against rational arithmetic."""

import math
from fractions import Fraction

import expected
import numpy as np
import pytest
import torch

import isologit
import isologit.nn

VOCAB, SIZE, ROWS = 70, 37, 3
F8 = {torch.float8_e4m3fn: "f8_e4m3", torch.float8_e5m2: "f8_e5m2"}


@pytest.fixture
def hidden():
    return torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(1)).bfloat16()


def some_f8(dtype):
    numbers = torch.randn(VOCAB, SIZE, generator=torch.Generator().manual_seed(2))
    return numbers.to(dtype)


def some_scales(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) / 100 + 1e-3


def products(values, scales, rows, columns):
    """scales [row blocks, column blocks], as fractions."""
    blocks = scales.double().tolist()
    return [
        [Fraction(value) * Fraction(blocks[v // rows][k // columns]) for k, value in enumerate(row)]
        for v, row in enumerate(values.double().tolist())
    ]


def exact_logits(hidden, weight):
    return torch.tensor(
        [
            [expected.round_once(sum(Fraction(h) * w for h, w in zip(row, of_id, strict=True))) for of_id in weight]
            for row in hidden.double().tolist()
        ]
    )


LAYOUTS = [  # the scales' shape, the block, and what the block is in rows and columns
    ((), None, (VOCAB, SIZE)),
    ((VOCAB,), None, (1, SIZE)),
    ((VOCAB, 1), None, (1, SIZE)),
    ((3, 3), (32, 16), (32, 16)),
    ((1, 1), (128, 128), (128, 128)),
]


@pytest.mark.parametrize("dtype", F8)
@pytest.mark.parametrize(("shape", "block", "of"), LAYOUTS)
def test_real_products(hidden, dtype, shape, block, of):
    values, scales = some_f8(dtype), some_scales(*shape)
    grid = scales.reshape(math.ceil(VOCAB / of[0]), math.ceil(SIZE / of[1]))
    right = exact_logits(hidden, products(values, grid, *of))
    weight = isologit.F8Weight(values, scales, block=block)
    assert expected.same_bits(isologit.logits(hidden, weight), right)
    of_numpy = isologit.F8Weight(values.view(torch.uint8).numpy(), scales.numpy(), block=block, encoding=F8[dtype])
    found = isologit.logits(hidden.view(torch.uint16).numpy(), of_numpy, input_dtype="bf16")
    assert expected.same_bits(torch.from_numpy(found), right)


def test_products_in_bf16(hidden):
    """The weight of products rounded once to bf16, in scores and samples too."""
    values, scales = some_f8(torch.float8_e4m3fn), some_scales(3, 3)
    rounded = [[expected.round_once(w, torch.bfloat16) for w in row] for row in products(values, scales, 32, 16)]
    plain = torch.tensor(rounded, dtype=torch.float64).bfloat16()
    weight = isologit.F8Weight(values, scales, block=(32, 16), product="bf16")
    ids = torch.tensor([1, 69, 3])
    one, other = (isologit.linear_logprobs(hidden, w, ids, return_entropy=True, top_k=5) for w in (weight, plain))
    for name in ("logprobs", "entropy", "top_k_ids", "top_k_logprobs"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    draws = [isologit.sample(hidden, w, seed=7, sequence_id=0, position=torch.arange(ROWS)) for w in (weight, plain)]
    assert torch.equal(draws[0].ids, draws[1].ids) and torch.equal(draws[0].logprobs, draws[1].logprobs)
    assert not torch.equal(
        isologit.logits(hidden, weight), isologit.logits(hidden, isologit.F8Weight(values, scales, block=(32, 16)))
    )


def test_a_number_is_a_scale(hidden):
    values = some_f8(torch.float8_e5m2)
    right = exact_logits(hidden, products(values, torch.tensor([[0.3]]), VOCAB, SIZE))
    assert expected.same_bits(isologit.logits(hidden, isologit.F8Weight(values, 0.3)), right)


def test_shards_count_scales_from_the_whole(hidden):
    values, scales = some_f8(torch.float8_e4m3fn), some_scales(3, 3)
    whole = isologit.score(hidden, isologit.F8Weight(values, scales, block=(32, 16)), [1, 2, 3], outputs=("lse",))
    shards = [(isologit.F8Weight(values[a:b], scales, block=(32, 16), first_row=a), a) for a, b in ((0, 45), (45, 70))]
    partial = isologit.partial.PartialScore(hidden, vocab_size=VOCAB, token_ids=[1, 2, 3], outputs=("lse",))
    while True:
        for weight, first_id in shards:
            partial.absorb(weight, first_id)
        if partial.finish_round():
            break
    assert torch.equal(partial.scores().lse, whole.lse)


def test_f64(hidden):
    numbers = torch.randn(VOCAB, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    right = exact_logits(hidden, [[Fraction(w) for w in row] for row in numbers.tolist()])
    assert expected.same_bits(isologit.logits(hidden, numbers), right)
    of_numpy = isologit.score(hidden.float().numpy(), numbers.numpy(), [1, 2, 3]).logprobs
    assert torch.equal(torch.from_numpy(of_numpy), isologit.linear_logprobs(hidden, numbers, [1, 2, 3]).logprobs)


def gradients_of(call, hidden, bias, weight):
    """Of hidden and bias, exact; and dz, by the head whose weight is 1 on the diagonal and that has the same logits."""
    leaf, own_bias = hidden.clone().requires_grad_(), bias.clone().requires_grad_()
    call(leaf, weight, bias=own_bias, gradients="exact").backward()
    z = isologit.logits(hidden, weight, bias=bias).detach().requires_grad_()
    call(z, torch.eye(VOCAB), gradients="exact").backward()
    return leaf.grad, own_bias.grad, z.grad


def rounded_products(dz, weight, dtype):
    """dz times a weight of fractions."""
    return torch.tensor(
        [
            [
                expected.round_once(sum(Fraction(x) * w for x, w in zip(row, column, strict=True)), dtype)
                for column in zip(*weight, strict=True)
            ]
            for row in dz.double().tolist()
        ],
        dtype=dtype,
    )


TRAINING = {
    "logprobs": lambda *given, **own: isologit.linear_logprobs(*given, [1, 69, 3], **own).logprobs.sum(),
    "entropy": lambda *given, **own: isologit.score(*given, outputs=("entropy",), **own).entropy.sum(),
    "top-k": lambda *given, **own: isologit.score(*given, outputs=("lse",), top_k=3, **own).top_k_logprobs.sum(),
    "loss": lambda *given, **own: isologit.linear_cross_entropy(*given, [1, 69, 3], z_loss=0.01, **own),
    "logits": lambda *given, **own: (isologit.logits(*given, **own) * torch.arange(VOCAB)).sum(),
}


@pytest.mark.parametrize("what", TRAINING)
def test_gradients_through_f8(hidden, what):
    values, scales = some_f8(torch.float8_e4m3fn), some_scales(3, 3)
    weight = isologit.F8Weight(values, scales, block=(32, 16))
    bias = torch.randn(VOCAB, generator=torch.Generator().manual_seed(6))
    dhidden, dbias, dz = gradients_of(TRAINING[what], hidden, bias, weight)
    right = rounded_products(dz, products(values, scales, 32, 16), torch.bfloat16)
    assert expected.same_bits(dhidden, right)
    sums = [expected.round_once(sum(map(Fraction, column))) for column in zip(*dz.double().tolist(), strict=True)]
    assert dbias.tolist() == sums
    leaf = hidden.float().requires_grad_()
    TRAINING[what](leaf, weight, bias=bias).backward()
    norms = isologit.logits(torch.eye(SIZE), weight).norm(dim=0)
    assert (leaf.grad - right.float()).abs().max() <= 2.0**-7 * (dz.abs() @ norms).max()


def test_gradients_of_f64(hidden):
    weight = torch.randn(VOCAB, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    fractions = [[Fraction(w) for w in row] for row in weight.tolist()]
    dhidden, _, dz = gradients_of(TRAINING["logprobs"], hidden, torch.zeros(VOCAB), weight)
    assert expected.same_bits(dhidden, rounded_products(dz, fractions, torch.bfloat16))
    right = rounded_products(dz.T, [[Fraction(h) for h in row] for row in hidden.double().tolist()], torch.float32)
    assert weight.grad.dtype == torch.float64 and torch.equal(weight.grad, right.double())


def test_a_weight_of_f8_is_frozen(hidden):
    weight = isologit.F8Weight(some_f8(torch.float8_e4m3fn), 0.5)
    leaf = hidden.clone().requires_grad_()
    with pytest.raises(TypeError, match="dweight_accumulate is given; expected None .* an F8Weight, which is frozen"):
        isologit.linear_logprobs(leaf, weight, [1, 2, 3], dweight_accumulate=torch.zeros(VOCAB, SIZE))
    scored = isologit.linear_logprobs(leaf, weight, [1, 2, 3])
    weight.scale.fill_(0.25)
    with pytest.raises(ValueError, match="weight: written to since the forward pass"):
        scored.logprobs.sum().backward()
    with pytest.raises(ValueError, match="gradients is 'good'"):
        isologit.logits(leaf, weight, gradients="good")
    assert isologit.sample(leaf, weight, seed=1, sequence_id=0, position=0).ids.shape == (ROWS,)


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        ((torch.ones(4, 2),), {}, "dtype is float32 and encoding is None"),
        ((np.ones((4, 2), np.uint8),), {}, "dtype is uint8 and encoding is None"),
        ((np.ones((4, 2), np.uint8),), {"encoding": "fp8"}, "encoding is 'fp8'"),
        ((some_f8(torch.float8_e4m3fn),), {"encoding": "f8_e4m3"}, "expected float8_e4m3fn or float8_e5m2 without"),
        ((some_f8(torch.float8_e4m3fn)[0],), {}, r"values is \[37\]"),
        ((some_f8(torch.float8_e4m3fn),), {"product": "f32"}, "product is 'f32'"),
        ((some_f8(torch.float8_e4m3fn),), {"block": 128}, "block is 128"),
        ((some_f8(torch.float8_e4m3fn), torch.ones(3, 3)), {"block": (0, 1)}, "block: 0"),
        ((some_f8(torch.float8_e4m3fn),), {"first_row": -1}, "first_row: -1"),
        ((some_f8(torch.float8_e4m3fn), torch.ones(3, 3)), {}, r"scale is \[3, 3\]; expected a number, \[V\]"),
    ],
)
def test_what_is_refused(arguments, options, why):
    values, scale = (*arguments, 1.0)[:2]
    with pytest.raises(ValueError, match=why):
        isologit.F8Weight(values, scale, **options)


def test_what_does_not_fit_is_refused(hidden):
    values = some_f8(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"expected isologit.F8Weight\(weight, scale\)"):
        isologit.logits(hidden, values)
    with pytest.raises(ValueError, match=r"f8_scales: shape \[60, 1\]; expected \[70, 1\]"):
        isologit.logits(hidden, isologit.F8Weight(values, torch.ones(60)))
    with pytest.raises(ValueError, match=r"f8_scales: shape \[3, 3\]; expected \[1, 1\]"):
        isologit.logits(hidden, isologit.F8Weight(values, torch.ones(3, 3), block=(128, 128)))
    with pytest.raises(ValueError, match="scale: dtype is torch.float64"):
        isologit.logits(hidden, isologit.F8Weight(values, torch.ones(VOCAB).double()))
    with pytest.raises(ValueError, match="strides are"):
        isologit.logits(hidden.float(), isologit.F8Weight(values.t().contiguous().t(), 1.0))
    with pytest.raises(TypeError, match="expected numpy arrays or torch tensors"):
        isologit.logits(hidden.float().numpy(), isologit.F8Weight(values, 1.0))


def test_a_module_takes_tensors_alone():
    weight = isologit.F8Weight(torch.zeros(4, 8, dtype=torch.float8_e4m3fn), torch.ones(()))
    with pytest.raises(TypeError, match=r"weight is a F8Weight; expected a tensor \[V, H\]"):
        isologit.nn.LMHead(weight)


def test_a_low_rank_addition_beside_f8(hidden):
    """One real number with the weight, and its factors train where the weight is frozen."""
    values, scales = some_f8(torch.float8_e4m3fn), some_scales(3, 3)
    weight = isologit.F8Weight(values, scales, block=(32, 16))
    generator = torch.Generator().manual_seed(9)
    a, b = (torch.randn(shape, generator=generator).requires_grad_() for shape in ((2, SIZE), (VOCAB, 2)))
    scale = 1 / 3
    merged = [
        [w + Fraction(scale) * sum(Fraction(x) * Fraction(y) for x, y in zip(b_row, column, strict=True))
         for w, column in zip(row, zip(*a.tolist(), strict=True), strict=True)]
        for row, b_row in zip(products(values, scales, 32, 16), b.tolist(), strict=True)
    ]  # fmt: skip
    leaf = hidden.clone().requires_grad_()
    z = isologit.logits(leaf, weight, lora=(a, b, scale), gradients="exact")
    assert expected.same_bits(z.detach(), exact_logits(hidden, merged))
    dz = torch.randn(z.shape, generator=generator)
    z.backward(dz)
    assert expected.same_bits(leaf.grad, rounded_products(dz, merged, torch.bfloat16))
    rows = [[Fraction(h) for h in row] for row in hidden.double().tolist()]
    u = [[Fraction(scale) * sum(x * Fraction(y) for x, y in zip(row, a_row, strict=True)) for a_row in a.tolist()]
         for row in rows]  # fmt: skip
    assert expected.same_bits(b.grad, rounded_products(dz.T, u, torch.float32))
    g = [[Fraction(scale) * sum(Fraction(x) * Fraction(y) for x, y in zip(row, column, strict=True))
          for column in zip(*b.tolist(), strict=True)] for row in dz.tolist()]  # fmt: skip
    right = [[expected.round_once(sum(x[j] * h[k] for x, h in zip(g, rows, strict=True))) for k in range(SIZE)]
             for j in range(2)]  # fmt: skip
    assert expected.same_bits(a.grad, torch.tensor(right))


def test_f8_under_compile_is_computed_outside_of_it(hidden):
    """No operator of torch takes it: a graph that must be whole is refused, another one breaks there."""
    weight = isologit.F8Weight(some_f8(torch.float8_e4m3fn), 0.5)

    def twice(hidden):
        return isologit.logits(hidden, weight) * 2

    right = twice(hidden)
    assert expected.same_bits(torch.compile(twice, backend="eager")(hidden), right)
    torch.compiler.reset()
    with pytest.raises(Exception, match="an F8Weight under torch.compile"):
        torch.compile(twice, backend="eager", fullgraph=True)(hidden)
