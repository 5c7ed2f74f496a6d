"""linear_logprobs and logits on torch tensors."""

import itertools
import math
import subprocess
import sys
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
import expected  # noqa: E402
from expected import same_bits  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import isologit  # noqa: E402
import isologit._torch  # noqa: E402  (registers the operators)
from isologit._inputs import HeadArgs  # noqa: E402
from isologit._score import OUTPUTS  # noqa: E402
from isologit._support import SupportArgs  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def head(rows=6, vocab=50, size=24, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, size, generator=generator).to(dtype)
    weight = torch.randn(vocab, size, generator=generator).to(dtype)
    return hidden, weight, torch.randint(0, vocab, (rows,), generator=generator)


def pick(values, ids):
    return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def same_results(one, other, rows=slice(None)):
    """Of two Scores, all but the counts."""
    pairs = [(a, b) for a, b in zip(one[:-1], other[:-1], strict=True) if not a is b is None]
    return len(pairs) > 0 and all(same_bits(a, b[rows]) for a, b in pairs)


def half_ulp(values):
    """Of the largest one, in f32."""
    return 2.0 ** (math.floor(math.log2(values.abs().max())) - 24)


# Logits against rational arithmetic


@pytest.mark.parametrize(("hidden_dtype", "weight_dtype"), list(itertools.product(DTYPES, DTYPES)))
def test_logits_are_the_exact_sum_rounded_once(hidden_dtype, weight_dtype):
    hidden, _, _ = head(3, 1, 40, hidden_dtype)
    _, weight, _ = head(1, 20, 40, weight_dtype, seed=1)
    # Cancelling terms of many sizes: a sum in f32 is wrong.
    hidden = (hidden.double() * torch.logspace(-4, 4, 40, base=2, dtype=torch.float64)).to(hidden_dtype)
    hidden[:, 1::2] = hidden[:, ::2]
    weight[:, 1::2] = -weight[:, ::2]
    weight[:, -1] += 0.25
    bias = torch.linspace(-1, 1, 20).to(weight_dtype)
    for dtype in DTYPES:
        got = isologit.logits(hidden, weight, bias=bias, dtype=dtype)
        assert got.dtype == dtype and same_bits(got, expected.logits(hidden, weight, bias, dtype))


def test_transforms_round_once_each():
    hidden, weight, _ = head()
    temperature = torch.tensor([1.0, 0.7, 1.3, 3.0, 0.1, 2.0])
    tenth = Fraction(torch.tensor(0.1).item())
    got = isologit.logits(hidden, weight, scale=0.1)
    assert same_bits(got, expected.logits(hidden, weight, transforms=[lambda z: z * tenth]))
    got = isologit.logits(hidden, weight, divide=0.1, temperature=temperature)
    for row in range(6):
        steps = [lambda z: z / tenth, lambda z, row=row: z / Fraction(temperature[row].item())]
        assert same_bits(got[row : row + 1], expected.logits(hidden[row : row + 1], weight, transforms=steps))


def test_softcap_is_the_rounded_function():
    hidden, weight, _ = head()
    z = isologit.logits(hidden, weight).double()
    capped = 5.0 * torch.tanh(z / 5.0)
    sure = ~expected.nearly_a_tie(capped)
    assert sure.float().mean() > 0.9
    assert torch.equal(isologit.logits(hidden, weight, softcap=5.0)[sure], capped.float()[sure])


# Logprobs, entropy and lse against float64


OPTIONS = {
    "plain": {},
    "bias": {"bias": torch.linspace(-2, 2, 50)},
    "softcap": {"softcap": 3.0},
    "scale": {"scale": 0.0625},
    "divide": {"divide": 8.0},
    "temperature": {"temperature": 0.7},
    "temperature per row": {"temperature": torch.tensor([0.5, 0.7, 1.0, 1.3, 2.0, 5.0])},
    "padded vocabulary": {"vocab_size": 47},
    "all": {"bias": torch.linspace(-2, 2, 50), "softcap": 3.0, "divide": 0.5, "temperature": 1.7, "vocab_size": 49},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_results_equal_float64_of_our_logits_rounded_once(name, dtype):
    hidden, weight, ids = head(dtype=dtype)
    ids = ids.clamp(max=46)
    options = OPTIONS[name]
    got = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, return_lse=True, top_k=5, **options)
    z = isologit.logits(hidden, weight, **options)
    p = expected.log_softmax(z)
    values = {
        "logprobs": (got.logprobs, pick(p, ids)),
        "entropy": (got.entropy, -(p.exp() * p).sum(-1)),
        "lse": (got.lse, torch.logsumexp(z.double(), -1)),
        "top_k_logprobs": (got.top_k_logprobs, p.gather(-1, got.top_k_ids)),
    }
    for what, (value, wanted) in values.items():
        sure = ~expected.nearly_a_tie(wanted)
        assert value.dtype == torch.float32 and sure.any(), what
        assert torch.equal(value[sure], wanted.float()[sure]), what
    assert torch.equal(got.top_k_ids, torch.sort(z, dim=-1, descending=True, stable=True).indices[:, :5])


@pytest.mark.parametrize(
    ("dtype", "soft", "scaled", "cooled"),
    list(itertools.product(DTYPES, [None, 3.0], [{}, {"scale": 0.3}, {"divide": 0.3}], [1.0, 0.7])),
)
def test_results_are_within_an_ulp_a_step_of_float64(dtype, soft, scaled, cooled):
    hidden, weight, ids = head(dtype=dtype)
    z = torch.nn.functional.linear(hidden.double(), weight.double())
    error = half_ulp(z)  # what the roundings so far have made of it, at most
    if soft is not None:
        z = soft * torch.tanh(z / soft)
        error = error + half_ulp(z)  # of slope 1 at most
    factors = [("divide", cooled)] if cooled != 1.0 else []
    for what, factor in [*scaled.items(), *factors]:
        factor = torch.tensor(factor).item()  # parameters are f32
        factor = 1.0 / factor if what == "divide" else factor
        z = z * factor
        error = error * factor + half_ulp(z)
    wanted = pick(torch.log_softmax(z, -1), ids)
    got = isologit.linear_logprobs(hidden, weight, ids, softcap=soft, temperature=cooled, **scaled).logprobs
    # z_t and the normalizer move by the error each; 2^-40 is for float64's own.
    assert (got.double() - wanted).abs().max() <= 2 * error + half_ulp(wanted) + 2.0**-40


def test_a_near_certain_token_keeps_its_relative_precision():
    hidden, weight = torch.tensor([[0.5, 40.0]]), torch.tensor([[1.0, 0.5], [-0.25, 2.0], [0.0, 1.0]])
    got = isologit.linear_logprobs(hidden, weight, torch.tensor([1])).logprobs.item()
    others = math.exp(20.5 - 79.875) + math.exp(40.0 - 79.875)
    assert got == torch.tensor(-math.log1p(others), dtype=torch.float64).float().item() != 0.0


# Ids, masks, special rows


def test_several_ids_a_row():
    hidden, weight, _ = head()
    ids = torch.arange(24).reshape(6, 4) * 2
    ids[0, 0] = -100
    got = isologit.linear_logprobs(hidden, weight, ids).logprobs
    for k in range(4):
        assert same_bits(got[:, k], isologit.linear_logprobs(hidden, weight, ids[:, k]).logprobs)
    assert got[0, 0] == 0


def test_ignored_rows_are_zero_in_every_output():
    hidden, weight, ids = head()
    ids[2] = -100
    hidden[2] = math.nan
    got = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, return_lse=True, top_k=2)
    values = [value for value in got[:-1] if value is not None]
    assert len(values) == 5 and all((value[2] == 0).all() for value in values)
    assert all(torch.isfinite(value.double()).all() for value in values)
    ids[2], ids[3] = 0, 7
    hidden[2] = 0
    assert isologit.linear_logprobs(hidden, weight, ids, ignore_index=7).logprobs[3] == 0


def test_masks_and_lists():
    hidden, weight, ids = head()
    z = isologit.logits(hidden, weight)
    mask = torch.rand(6, 50, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[torch.arange(6), ids] = True
    mask[1, ids[1]] = False
    wanted = pick(torch.log_softmax(z.double().masked_fill(~mask, -math.inf), -1), ids)
    got = isologit.linear_logprobs(hidden, weight, ids, mask=mask, return_entropy=True)
    assert got.logprobs[1] == -math.inf
    sure = ~expected.nearly_a_tie(wanted)
    assert torch.equal(got.logprobs[sure], wanted.float()[sure])
    lists = [row.nonzero().flatten().tolist() for row in mask]
    banned = [(~row).nonzero().flatten().tolist() for row in mask]
    for options in ({"kept": lists}, {"banned": banned}, {"kept": lists, "banned": [[] for _ in lists]}):
        assert same_bits(isologit.linear_logprobs(hidden, weight, ids, **options).logprobs, got.logprobs)
    one = isologit.linear_logprobs(hidden, weight, ids, mask=mask[0]).logprobs
    assert same_bits(one, isologit.linear_logprobs(hidden, weight, ids, mask=mask[:1].expand(6, 50)).logprobs)
    assert isologit.linear_logprobs(hidden, weight, ids, mask=torch.zeros(50, dtype=torch.bool)).logprobs.isnan().all()


# Axis A: the same bits however a row comes


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_the_batch(dtype):
    hidden, weight, ids = head(9, 300, 33, dtype)
    options = {"return_entropy": True, "return_lse": True, "top_k": 3}
    whole = isologit.linear_logprobs(hidden, weight, ids, **options)
    z = isologit.logits(hidden, weight)
    for rows in (slice(0, 1), slice(4, 5), slice(2, 8), [8, 0, 3, 3]):
        part = isologit.linear_logprobs(hidden[rows], weight, ids[rows], **options)
        assert same_results(part, whole, rows)
        assert same_bits(isologit.logits(hidden[rows], weight), z[rows])
    padded_hidden = torch.nn.functional.pad(hidden, (0, 31))
    padded_weight = torch.nn.functional.pad(weight, (0, 31, 0, 5), value=0.0)
    padded = isologit.linear_logprobs(padded_hidden, padded_weight, ids, vocab_size=300, **options)
    assert same_results(padded, whole)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(5))
    assert same_bits(isologit.logits(hidden[:, order], weight[:, order].contiguous()), z)
    for threads, kernel in ((1, ""), (5, ""), (2, "portable"), (1, "reference")):
        other = isologit.linear_logprobs(hidden, weight, ids, threads=threads, kernel=kernel, **options)
        assert same_results(other, whole)


# Tensors as they lie


def test_shapes_are_kept():
    hidden, weight, ids = head(6)
    flat = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, top_k=2)
    shaped = isologit.linear_logprobs(
        hidden.reshape(1, 2, 3, -1), weight, ids.reshape(1, 2, 3), return_entropy=True, top_k=2
    )
    assert shaped.logprobs.shape == shaped.entropy.shape == (1, 2, 3) and shaped.top_k_ids.shape == (1, 2, 3, 2)
    assert shaped.lse is None and same_bits(shaped.logprobs.flatten(), flat.logprobs)
    one = isologit.linear_logprobs(hidden[0], weight, ids[0], return_entropy=True)
    assert one.logprobs.shape == () and one.logprobs == flat.logprobs[0] and one.entropy == flat.entropy[0]
    assert isologit.logits(hidden[0], weight).shape == (50,)
    none = isologit.linear_logprobs(
        hidden[:0].reshape(0, 3, 24), weight, ids[:0].reshape(0, 3), return_lse=True, top_k=2
    )
    assert none.logprobs.shape == none.lse.shape == (0, 3) and none.top_k_ids.shape == (0, 3, 2)


def test_strides_are_followed():
    hidden, weight, ids = head(6, 40)
    wanted = isologit.linear_logprobs(hidden, weight, ids).logprobs
    wide_hidden, wide_weight = torch.zeros(12, 30).bfloat16(), torch.zeros(80, 29).bfloat16()
    wide_hidden[::2, 3:27], wide_weight[1::2, 5:] = hidden, weight
    assert same_bits(isologit.linear_logprobs(wide_hidden[::2, 3:27], wide_weight[1::2, 5:], ids).logprobs, wanted)
    columns = hidden.t().contiguous().t()
    assert same_bits(isologit.linear_logprobs(columns, weight, ids).logprobs, wanted)
    swapped = hidden.reshape(2, 3, 24).transpose(0, 1)
    assert same_bits(
        isologit.linear_logprobs(swapped, weight, ids.reshape(2, 3).t()).logprobs, wanted.reshape(2, 3).t()
    )
    repeated = hidden[:1].expand(6, 24)
    assert same_bits(isologit.linear_logprobs(repeated, weight, ids[:1].expand(6)).logprobs, wanted[:1].expand(6))
    with pytest.raises(ValueError, match="weight: .* last stride of 1.* not copied"):
        isologit.linear_logprobs(hidden, weight.t().contiguous().t(), ids)


def test_a_weight_written_in_place_is_seen():
    hidden, weight, ids = head()
    other = weight.flip(0).clone()
    wanted = isologit.linear_logprobs(hidden, other, ids).logprobs
    layer = torch.nn.Linear(24, 50, bias=False, dtype=torch.bfloat16)
    layer.weight.data.copy_(weight)
    with torch.no_grad():
        before = isologit.linear_logprobs(hidden, layer.weight, ids).logprobs
        layer.weight.data.copy_(other)
        assert same_bits(isologit.linear_logprobs(hidden, layer.weight, ids).logprobs, wanted)
    assert not same_bits(before, wanted)
    shared = weight.clone().share_memory_()
    process = torch.multiprocessing.get_context("fork").Process(target=shared.copy_, args=(other,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert same_bits(isologit.linear_logprobs(hidden, shared, ids).logprobs, wanted)


def test_inputs_are_left_alone():
    hidden, weight, ids = head()
    before = [x.clone() for x in (hidden, weight, ids)]
    isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, top_k=3)
    assert all(torch.equal(a, b) for a, b in zip(before, (hidden, weight, ids), strict=True))


# The switches of torch


def test_autocast_and_precision_switches_are_ignored_and_left():
    hidden, weight, ids = head(dtype=torch.float32)
    wanted, z = isologit.linear_logprobs(hidden, weight, ids).logprobs, isologit.logits(hidden, weight)
    former = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert same_bits(isologit.linear_logprobs(hidden, weight, ids).logprobs, wanted)
                assert same_bits(isologit.logits(hidden, weight), z)
                assert torch.is_autocast_enabled("cpu")
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(former)


def test_opcheck():
    hidden, weight, ids = head()
    score, logits = torch.ops.isologit.score.default, torch.ops.isologit.logits.default
    plain, all_ids = HeadArgs(hidden, weight, None, torch.tensor([0.7]), 50), SupportArgs()
    everything = list(OUTPUTS)
    torch.library.opcheck(score, (*plain, *all_ids, ids, -100, everything, 3, True, "fast", None))
    torch.library.opcheck(score, (*with_all_options(), "fast", None))
    torch.library.opcheck(score, (*plain, *all_ids, None, -100, ["lse", "argmax"], 0, False, "fast", None))
    torch.library.opcheck(logits, (*plain, torch.bfloat16, "fast", None))


def test_opcheck_of_a_low_rank_addition():
    lora = {"lora_a": torch.rand(2, 24), "lora_b": torch.rand(50, 2), "lora_scale": 0.5}
    torch.library.opcheck(torch.ops.isologit.score.default, (*with_all_options(**lora), "fast", None))


def with_all_options(**lora):
    """Arguments of isologit::score, but for gradients."""
    hidden, weight, ids = head()
    transforms, running = (30.0, 2.0, None, "scale_first"), ("exact", 1, [0], "portable")
    other = HeadArgs(hidden, weight, torch.zeros(50), torch.rand(6) + 0.5, 48, *transforms, *running, **lora)
    masked = SupportArgs(torch.rand(6, 48) < 0.5)
    return *other, *masked, ids.reshape(6, 1).repeat(1, 2), -1, ["logprobs"], 0, False


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic):
    hidden, weight, ids = head()

    def loss(hidden, weight, ids, mask):
        got = isologit.linear_logprobs(
            hidden * 2, weight, ids, temperature=0.7, return_entropy=True, top_k=2, mask=mask
        )
        return got.logprobs.sum() + got.entropy, got.top_k_ids, isologit.logits(hidden, weight).amax(-1)

    mask = torch.ones(50, dtype=torch.bool)
    mask[3:9] = False
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (6, 4):
        args = (hidden[:rows], weight, ids[:rows], mask)
        assert all(same_bits(a, b) for a, b in zip(compiled(*args), loss(*args), strict=True))


# What is refused


def test_errors():
    hidden, weight, ids = head()
    with pytest.raises(ValueError, match=r"hidden is \[6, 23\], weight is \[50, 24\]"):
        isologit.linear_logprobs(hidden[:, 1:], weight, ids)
    with pytest.raises(ValueError, match=r"token_ids\[2\].*50"):
        isologit.linear_logprobs(hidden, weight, torch.tensor([0, 1, 50, 0, 0, 0]))
    with pytest.raises(ValueError, match=r"token_ids: shape is \[5\]; expected \[6\]"):
        isologit.linear_logprobs(hidden, weight, ids[:5])
    with pytest.raises(ValueError, match="token_ids: dtype is torch.float32"):
        isologit.linear_logprobs(hidden, weight, ids.float())
    with pytest.raises(ValueError, match="hidden: dtype is torch.float64"):
        isologit.linear_logprobs(hidden.double(), weight, ids)
    with pytest.raises(ValueError, match="temperature"):
        isologit.linear_logprobs(hidden, weight, ids, temperature=0.0)
    with pytest.raises(ValueError, match=r"temperature: shape is \[2\]"):
        isologit.linear_logprobs(hidden, weight, ids, temperature=torch.ones(2))
    with pytest.raises(ValueError, match="mask: torch.int64"):
        isologit.linear_logprobs(hidden, weight, ids, mask=torch.ones(50, dtype=torch.int64))
    with pytest.raises(ValueError, match="top_k"):
        isologit.linear_logprobs(hidden, weight, ids, top_k=2000)
    with pytest.raises(ValueError, match="bias"):
        isologit.linear_logprobs(hidden, weight, ids, bias=torch.zeros(49))
    with pytest.raises(ValueError, match="vocab_size"):
        isologit.logits(hidden, weight, vocab_size=51)
    with pytest.raises(ValueError, match="arithmetic is 'f64'"):
        isologit.linear_logprobs(hidden, weight, ids, arithmetic="f64")


def test_operands_of_two_devices_are_refused():
    with FakeTensorMode():  # has devices that the machine lacks
        hidden, weight = torch.empty(2, 4, device="cuda"), torch.empty(5, 4, device="cuda")
        with pytest.raises(ValueError, match="token_ids is on cpu, and hidden on cuda:0; expected one device"):
            isologit.linear_logprobs(hidden, weight, torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="weight is on cuda:0, and hidden on cpu"):
            isologit.logits(hidden.cpu(), weight)


def test_forks_of_a_data_loader_score():
    code = """
import torch, isologit
from torch.utils.data import DataLoader, Dataset
hidden, weight, ids = torch.randn(8, 16), torch.randn(5000, 16), torch.arange(8)
class Rows(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return isologit.linear_logprobs(hidden[i], weight, ids[i], threads=2).logprobs
whole = isologit.linear_logprobs(hidden, weight, ids, threads=2).logprobs
loaded = torch.cat(list(DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context="fork")))
raise SystemExit(not torch.equal(whole, loaded))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
