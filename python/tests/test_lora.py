"""A low-rank addition to the weight: one real number with it, in every function that takes a head."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import expected_scores  # noqa: E402
from expected import round_once, same_bits  # noqa: E402

import isologit  # noqa: E402
import isologit.hf  # noqa: E402
import isologit.nn  # noqa: E402
import isologit.partial  # noqa: E402

VOCAB, SIZE, RANK, ROWS = 23, 12, 3, 4
IDS = torch.tensor([0, 22, 7, -100])
KEYS = {"seed": 5, "sequence_id": 1, "position": torch.arange(ROWS)}


def operands(dtype=torch.bfloat16, factors=torch.float32):
    generator = torch.Generator().manual_seed(7)

    def randn(*shape, dtype):
        return torch.randn(*shape, generator=generator).to(dtype)

    hidden, weight = randn(ROWS, SIZE, dtype=dtype), randn(VOCAB, SIZE, dtype=dtype)
    return hidden, weight, (randn(RANK, SIZE, dtype=factors), randn(VOCAB, RANK, dtype=factors), 1 / 3)


def merged(weight, lora):
    """weight + scale b a, as rational numbers."""
    a, b = ([[Fraction(x) for x in row] for row in factor.double().tolist()] for factor in lora[:2])
    scale = Fraction(lora[2])
    return [
        [Fraction(w) + scale * sum(b_row[j] * a[j][k] for j in range(len(a))) for k, w in enumerate(row)]
        for row, b_row in zip(weight.double().tolist(), b, strict=True)
    ]


def expected_logits(hidden, weight, lora, dtype=torch.float32):
    rows = merged(weight, lora)
    return torch.tensor(
        [[round_once(sum(Fraction(x) * w for x, w in zip(h, row, strict=True)), dtype) for row in rows]
         for h in hidden.double().tolist()],
        dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_are_the_real_sum_rounded_once(dtype, factors):
    hidden, weight, lora = operands(torch.bfloat16, factors)
    found = isologit.logits(hidden, weight, lora=lora, dtype=dtype)
    assert same_bits(found, expected_logits(hidden, weight, lora, dtype))


def test_scores_and_samples_are_those_of_the_logits():
    hidden, weight, lora = operands()
    z = expected_logits(hidden, weight, lora)
    found = isologit.score(hidden, weight, IDS, lora=lora, outputs=("logprobs", "lse", "entropy", "rank"), top_k=3)
    for row in range(ROWS - 1):
        wanted = expected_scores.of_row(z[row].tolist(), z[row].tolist(), list(range(VOCAB)), [IDS[row].item()], 3)
        assert found.logprobs[row].item() == wanted["logprobs"][0] and found.rank[row].item() == wanted["rank"][0]
        assert found.lse[row].item() == wanted["lse"] and found.entropy[row].item() == wanted["entropy"]
        assert found.top_k_ids[row].tolist() == wanted["top_k_ids"]
    loss = isologit.linear_cross_entropy(hidden, weight, IDS, lora=lora)
    assert loss.item() == round_once(-sum(Fraction(x) for x in found.logprobs[:3].tolist()) / 3)
    # The head of size VOCAB whose weight is 1 on the diagonal has these z for logits.
    drawn = isologit.sample(hidden, weight, lora=lora, **KEYS, top_k=9)
    wanted = isologit.sample(z, torch.eye(VOCAB), **KEYS, top_k=9)
    assert torch.equal(drawn.ids, wanted.ids) and same_bits(drawn.logprobs, wanted.logprobs)


def test_arrays_of_numpy_have_the_same_bits():
    hidden, weight, lora = operands(torch.float32)
    wanted = isologit.linear_logprobs(hidden, weight, IDS, lora=lora).logprobs
    factors = (lora[0].numpy(), lora[1].numpy(), np.float64(lora[2]))
    found = isologit.linear_logprobs(hidden.numpy(), weight.numpy(), IDS.numpy(), lora=factors).logprobs
    assert same_bits(torch.from_numpy(found), wanted)


def test_factors_may_be_strided_and_of_rank_0():
    hidden, weight, (a, b, scale) = operands()
    wanted = isologit.logits(hidden, weight, lora=(a, b, scale))
    turned = (a.T.contiguous().T, b.T.contiguous().T, scale)
    assert not turned[1].is_contiguous()
    assert same_bits(isologit.logits(hidden, weight, lora=turned), wanted)
    none = (a[:0], b[:, :0], scale)
    assert same_bits(isologit.logits(hidden, weight, lora=none), isologit.logits(hidden, weight))
    assert not same_bits(wanted, isologit.logits(hidden, weight))


def test_shards_have_their_rows_of_b():
    hidden, weight, (a, b, scale) = operands()
    wanted = isologit.linear_logprobs(hidden, weight, IDS, lora=(a, b, scale)).logprobs
    partial = isologit.partial.PartialScore(hidden, IDS, vocab_size=VOCAB)
    finished = False
    while not finished:
        for first, last in ((10, VOCAB), (0, 10)):
            partial.absorb(weight[first:last], first, lora=(a, b[first:last], scale))
        finished = partial.finish_round()
    assert same_bits(partial.scores().logprobs, wanted)


def test_compiles_without_a_break():
    hidden, weight, lora = operands()

    def both(hidden, weight, a, b):
        own = {"lora": (a, b, 0.25)}
        return isologit.logits(hidden * 2, weight, **own), isologit.sample(hidden, weight, **own, **KEYS).ids

    wanted, ids = both(hidden, weight, *lora[:2])
    found, compiled_ids = torch.compile(both, fullgraph=True, backend="aot_eager")(hidden, weight, *lora[:2])
    assert same_bits(found, wanted) and torch.equal(compiled_ids, ids)


def test_the_module_has_it_in_all_it_does():
    hidden, weight, lora = operands()
    head = isologit.nn.LMHead(torch.nn.Parameter(weight, requires_grad=False), lora=lora)
    assert same_bits(head(hidden), isologit.logits(hidden, weight, lora=lora))
    own = isologit.linear_logprobs(hidden, weight, IDS, lora=lora).logprobs
    assert same_bits(head.logprobs(hidden, IDS).logprobs, own)
    assert same_bits(head.score(hidden, IDS).logprobs, own)
    assert head.cross_entropy(hidden, IDS) == isologit.linear_cross_entropy(hidden, weight, IDS, lora=lora)
    assert torch.equal(head.sample(hidden, **KEYS).ids, isologit.sample(hidden, weight, lora=lora, **KEYS).ids)
    assert "lora=3" in repr(head)


def wrapped(dropout=0.0, **options):
    """A model with a linear head that PEFT has wrapped, b not 0."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    model = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(SIZE, VOCAB, bias=False)}).bfloat16()
    config = peft.LoraConfig(r=RANK, lora_alpha=7, lora_dropout=dropout, target_modules=["lm_head"], **options)
    layer = peft.get_peft_model(model, config).base_model.model["lm_head"]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    return layer


@pytest.mark.parametrize("rslora", [False, True])
def test_the_adapter_of_a_layer_of_peft(rslora):
    layer = wrapped(use_rslora=rslora)
    hidden, _, _ = operands()
    lora = isologit.hf.lora_of(layer)
    assert lora[2] == layer.scaling["default"] == (7 / RANK**0.5 if rslora else 7 / RANK)
    with torch.no_grad():
        found = isologit.nn.LMHead(layer.base_layer.weight, lora=lora)(hidden)
        assert same_bits(found, expected_logits(hidden, layer.base_layer.weight, lora))
        theirs = layer.double()(hidden.double())
    assert (found - theirs).abs().max() <= 2.0**-23 * theirs.abs().max()


def test_layers_of_peft_that_do_more_are_refused():
    hidden, _, _ = operands()
    for options, words in (({"use_dora": True}, "DoRA"), ({"lora_bias": True}, "bias of its own")):
        with pytest.raises(NotImplementedError, match=words):
            isologit.hf.lora_of(wrapped(**options))
    layer = wrapped(dropout=0.5).train()
    with pytest.raises(NotImplementedError, match=r"drops inputs .* call eval"):
        isologit.hf.lora_of(layer)
    isologit.hf.lora_of(layer.eval())
    layer.enable_adapters(False)
    with pytest.raises(NotImplementedError, match="disabled"):
        isologit.hf.lora_of(layer)
    layer.enable_adapters(True)
    layer.merge()
    with pytest.raises(NotImplementedError, match="merged"):
        isologit.hf.lora_of(layer)
    with pytest.raises(ValueError, match="Linear; expected one that PEFT has wrapped"):
        isologit.hf.lora_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a, b, s: (a, b), ValueError, "expected .a, b, scale."),
        (lambda a, b, s: (a[:, 1:], b, s), ValueError, r"lora: a is \[3, 11\] and b is \[23, 3\]; expected \[r, 12\]"),
        (lambda a, b, s: (a, b[1:], s), ValueError, r"b is \[22, 3\]; expected"),
        (lambda a, b, s: (a, b[:, 1:], s), ValueError, r"b is \[23, 2\]; expected"),
        (lambda a, b, s: (a, b, float("inf")), ValueError, "lora scale: inf; expected a finite number"),
        (lambda a, b, s: (a, b, "1"), ValueError, "lora scale: '1'; expected a number"),
        (lambda a, b, s: (a.double(), b, s), ValueError, "lora a: dtype is torch.float64"),
        (lambda a, b, s: (a.to("meta"), b, s), NotImplementedError, "lora a is on meta"),
        (lambda a, b, s: (a.numpy(), b, s), TypeError, "lora a is an array"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, words):
    hidden, weight, lora = operands()
    for call in (isologit.logits, lambda *given, **own: isologit.sample(*given, **own, **KEYS)):
        with pytest.raises(error, match=words):
            call(hidden, weight, lora=change(*lora))


def rational(tensor):
    return [[Fraction(x) for x in row] for row in tensor.detach().double().tolist()]


def product(a, b):
    columns = list(zip(*b, strict=True))
    return [[sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in a]


def turned(a):
    return [list(column) for column in zip(*a, strict=True)]


def expected_gradients(dz, hidden, weight, lora):
    """Of hidden, weight, a and b, whose types these have."""
    a, b = (rational(factor) for factor in lora[:2])
    dz, h, scale = rational(dz), rational(hidden), Fraction(lora[2])
    g = [[scale * x for x in row] for row in product(dz, b)]
    u = [[scale * x for x in row] for row in product(h, turned(a))]
    exact = (product(dz, merged(weight.detach(), (*(x.detach() for x in lora[:2]), lora[2]))), product(turned(dz), h),
             product(turned(g), h), product(turned(dz), u))  # fmt: skip
    return [
        torch.tensor([[round_once(x, of.dtype) for x in row] for row in rows], dtype=of.dtype)
        for rows, of in zip(exact, (hidden, weight, *lora[:2]), strict=True)
    ]


def leaves(dtype=torch.bfloat16, factors=torch.float32):
    hidden, weight, (a, b, scale) = operands(dtype, factors)
    return [x.clone().requires_grad_() for x in (hidden, weight, a, b)], scale


@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
def test_exact_gradients_are_the_real_sums_rounded_once(factors):
    (hidden, weight, a, b), scale = leaves(torch.bfloat16, factors)
    g = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(2))
    isologit.logits(hidden, weight, lora=(a, b, scale), gradients="exact").backward(g)
    for leaf, wanted in zip((hidden, weight, a, b), expected_gradients(g, hidden, weight, (a, b, scale)), strict=True):
        assert same_bits(leaf.grad, wanted)


def test_gradients_of_logprobs_and_losses():
    """dz comes from the head whose weight is 1 on the diagonal, which has the same logits."""
    (hidden, weight, a, b), scale = leaves()
    ids = torch.tensor([0, 22, 7, -100])
    z = expected_logits(hidden.detach(), weight.detach(), (a.detach(), b.detach(), scale)).requires_grad_()
    for call in (
        lambda *given, **own: isologit.linear_logprobs(*given, ids, **own).logprobs.sum(),
        lambda *given, **own: isologit.linear_cross_entropy(*given, ids, label_smoothing=0.1, z_loss=1e-3, **own),
    ):
        call(z, torch.eye(VOCAB), gradients="exact").backward()
        call(hidden, weight, lora=(a, b, scale), gradients="exact").backward()
        wanted = expected_gradients(z.grad, hidden, weight, (a, b, scale))
        for leaf, right in zip((hidden, weight, a, b), wanted, strict=True):
            assert same_bits(leaf.grad, right)
            leaf.grad = None
        # Near, not equal: sums in f64 that are not rounded twice alike.
        call(hidden, weight, lora=(a, b, scale)).backward()
        for leaf, right in zip((hidden, weight, a, b), wanted, strict=True):
            assert (leaf.grad.double() - right.double()).abs().max() <= 2.0**-7 * right.double().abs().max()
            leaf.grad = None
        z.grad = None


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_only_what_requires_a_gradient_has_one(place):
    (*tensors,), scale = leaves()
    whole = [x.detach().clone().requires_grad_() for x in tensors]
    isologit.linear_logprobs(*whole[:2], IDS, lora=(*whole[2:], scale)).logprobs.sum().backward()
    some = [x.detach().requires_grad_(i == place) for i, x in enumerate(tensors)]
    isologit.linear_logprobs(*some[:2], IDS, lora=(*some[2:], scale)).logprobs.sum().backward()
    assert same_bits(some[place].grad, whole[place].grad)
    assert all((x.grad is None) == (i != place) for i, x in enumerate(some))
    isologit.sample(*some[:2], lora=(*some[2:], scale), **KEYS)


def test_a_buffer_for_dweight_and_rows_of_padding():
    (hidden, weight, a, b), scale = leaves(torch.float32)
    buffer = torch.zeros(VOCAB, SIZE)
    own = {"lora": (a, b, scale), "vocab_size": VOCAB - 2, "gradients": "exact"}
    ids = IDS.clamp(max=VOCAB - 3)
    isologit.linear_logprobs(hidden, weight, ids, dweight_accumulate=buffer, **own).logprobs.sum().backward()
    assert weight.grad is None and not b.grad[-2:].any() and b.grad[:-2].any() and a.grad.any()
    by_buffer, hidden.grad = hidden.grad, None
    isologit.linear_logprobs(hidden, weight, ids, **own).logprobs.sum().backward()
    assert same_bits(weight.grad, buffer) and same_bits(hidden.grad, by_buffer)


def test_a_factor_that_is_written_to_is_noticed():
    for how in ("by autograd", "past it"):
        (hidden, weight, a, b), scale = leaves()
        loss = isologit.linear_logprobs(hidden, weight, IDS, lora=(a, b, scale)).logprobs.sum()
        if how == "past it":
            b.data[3, 1] += 1
        else:
            with torch.no_grad():
                b[3, 1] += 1
        with pytest.raises((RuntimeError, ValueError), match="modified by an inplace|token_ids or lora: written to"):
            loss.backward()


def test_trains_under_compile():
    (hidden, weight, a, b), scale = leaves()

    def loss(hidden, a, b):
        return isologit.linear_cross_entropy(hidden * 2, weight.detach(), IDS, lora=(a, b, 0.25))

    wanted = torch.autograd.grad(loss(hidden, a, b), (hidden, a, b))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, right in zip(torch.autograd.grad(compiled(hidden, a, b), (hidden, a, b)), wanted, strict=True):
        assert same_bits(found, right)


def test_the_module_trains_its_adapter():
    (hidden, weight, a, b), scale = leaves()
    head = isologit.nn.LMHead(torch.nn.Parameter(weight.detach(), requires_grad=False), lora=(a, b, scale))
    head.cross_entropy(hidden, IDS).backward()
    assert head.weight.grad is None and all(x.grad.any() for x in (hidden, a, b))


def test_the_torch_backend_refuses_it() -> None:
    hidden, weight = torch.ones(2, 3), torch.ones(5, 3)
    with pytest.raises(NotImplementedError, match="lora_a is given, which kernel 'torch' does not take"):
        isologit.logits(hidden, weight, lora=(torch.ones(1, 3), torch.ones(5, 1), 1.0), kernel="torch")


def test_the_torch_backend_refuses_it_before_it_looks_at_the_device() -> None:
    # A thread that torch makes in a mode that flushes keeps it, and the device is refused from then on.
    code = """
import torch, isologit
torch.set_num_threads(4)
torch.set_flush_denormal(True)
torch.ones(1 << 20).add_(1)
torch.set_flush_denormal(False)
hidden, weight = torch.ones(2, 3), torch.ones(5, 3)
for own in ({}, {"lora": (torch.ones(1, 3), torch.ones(5, 1), 1.0)}):
    try:
        isologit.logits(hidden, weight, kernel="torch", **own)
    except NotImplementedError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    device, operand = done.stdout.splitlines()
    assert "a thread of torch flushes subnormal numbers" in device
    assert "lora_a is given, which kernel 'torch' does not take" in operand
