"""The torch backend itself: hostile operands against rational arithmetic, its certificate under bad products, blocks,
devices, and what it refuses. The tests of outputs and gradients run on it in test_torch_backend_outputs and
_gradients."""

import json
import re
import subprocess
import sys
from pathlib import Path

import expected
import pytest

torch = pytest.importorskip("torch")
from expected import same_bits  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import isologit  # noqa: E402
from isologit._score import OUTPUTS  # noqa: E402
from isologit._torch import first_calls  # noqa: E402
from isologit.torch_backend import folds, limits, products, self_test  # noqa: E402

CPU = torch.device("cpu")


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(low, high, *shape, seed=2):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def wild(hidden, weight):
    return hidden * torch.exp2(integers(-40, 40, *hidden.shape)), weight * torch.exp2(integers(-40, 40, *weight.shape))


def cancelling(hidden, weight):
    hidden, weight = wild(hidden, weight)
    half = hidden.shape[1] // 2
    hidden[:, half : 2 * half], weight[:, half : 2 * half] = hidden[:, :half], -weight[:, :half]
    return hidden, weight


def near_ties(hidden, weight):
    """1 + 2^-24, the middle of two f32, give or take next to nothing."""
    hidden, weight = torch.zeros_like(hidden), torch.zeros_like(weight)
    hidden[:, :3] = 1
    weight[:, 0], weight[:, 1] = 1, 2.0**-24
    weight[:, 2] = torch.tensor([0.0, 1, -1])[integers(0, 3, len(weight))] * 2.0**-120
    return hidden, weight


FAMILIES = {
    "normal": lambda hidden, weight: (hidden, weight),
    "wild": wild,
    "cancelling": cancelling,
    "near ties": near_ties,
    "ties": lambda hidden, weight: (hidden.mul(100).round(), weight.mul(100).round().mul(2**10)),
    "subnormal": lambda hidden, weight: (hidden * 2.0**-70, weight * 2.0**-70),
    "subnormal operands": lambda hidden, weight: (hidden * 2.0**-134, weight),
    "overflowing": lambda hidden, weight: (hidden * 2.0**64, weight * 2.0**63),
}


def operands(family, dtype, rows=5, vocab=41, size=29):
    hidden, weight = FAMILIES[family](random(rows, size), random(vocab, size, seed=3))
    return hidden.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_hostile_operands(family, dtype):
    hidden, weight = operands(family, dtype)
    if not (hidden.isfinite().all() and weight.isfinite().all()):
        hidden, weight = (x.nan_to_num(1, posinf=2, neginf=-2) for x in (hidden, weight))
    for result in (torch.float32, torch.bfloat16, torch.float16):
        got = isologit.logits(hidden, weight, dtype=result, kernel="torch")
        assert same_bits(got, expected.logits(hidden, weight, dtype=result))


def special_operands():
    hidden, weight = random(8, 29), random(41, 29, seed=3)
    hidden[0, 3], hidden[1, 4], hidden[2, 5], hidden[2, 6] = torch.inf, -torch.inf, torch.inf, -torch.inf
    hidden[3, 0], weight[4, 4], weight[5, 5], weight[6] = torch.nan, 0, torch.inf, torch.nan
    weight[7], hidden[6] = 0, 0
    return hidden, weight


def test_special_terms():
    hidden, weight = special_operands()
    terms = hidden.double()[:, None] * weight.double()  # finite ones are exact, and the others decide by themselves
    special = ~terms.isfinite().all(-1)
    wanted = terms.sum(-1)
    wanted = torch.where(wanted.isnan(), torch.nan, wanted).float()
    got = isologit.logits(hidden, weight, kernel="torch")
    assert same_bits(got[special], wanted[special]) and special.sum() > 40
    assert same_bits(got, isologit.logits(hidden, weight))


@pytest.mark.parametrize("masked", [False, True])
def test_all_outputs_of_hostile_rows_are_the_cores(masked):
    """The core's outputs are compared with mpmath in test_score; here its rows are such that few are usual."""
    rows = {
        "peaked": torch.tensor([200.0, -(100 + 2.0**-16), 3, 3]),
        "ties of a gap": torch.tensor([20.0, -20.000001, 20 - 2.0**-18, -60]),
        "equal": torch.zeros(4),
        "far": torch.tensor([1e6, -1e6, -1e30, -3e38]),
        "one above -inf": torch.tensor([-torch.inf, 5, -torch.inf, -torch.inf]),
        "none": torch.full((4,), -torch.inf),
        "+inf": torch.tensor([torch.inf, 1, 2, torch.inf]),
        "NaN": torch.tensor([1, torch.nan, 3, torch.nan]),
        "close": torch.tensor([1.0, 1 + 2.0**-23, 1, 1 - 2.0**-24]),
    }
    mask = torch.tensor([True, True, False, True]) if masked else None
    outputs = list(OUTPUTS)
    for name, z in rows.items():
        for token in range(4):
            arguments = (torch.ones(1, 1), z[:, None], torch.tensor([token]))
            options = {"outputs": outputs, "top_k": 4, "mask": mask, "temperature": 1.5}
            wanted, got = (isologit.score(*arguments, **options, kernel=kernel) for kernel in ("", "torch"))
            for field in (*outputs, "top_k_ids", "top_k_logprobs"):
                same = same_bits if getattr(got, field).dtype == torch.float32 else torch.equal
                assert same(getattr(got, field), getattr(wanted, field)), (name, token, field)


def everything(**options):
    hidden, weight = operands("normal", torch.bfloat16, 37, 301, 40)
    hidden[5, 3], ids = torch.inf, integers(0, 301, 37)
    hidden.requires_grad_(), weight.requires_grad_()
    scored = isologit.score(
        hidden, weight, ids, outputs=list(OUTPUTS), top_k=3, softcap=3.0, temperature=0.7, **options
    )
    upstream = random(37)
    upstream[5] = 0
    gradients = torch.autograd.grad([scored.logprobs, scored.entropy], [hidden, weight], [upstream, upstream])
    some_divided = torch.tensor([1, 0.7]).repeat(19)[:37]
    logits = isologit.logits(hidden, weight, softcap=3.0, temperature=some_divided, dtype=torch.bfloat16, **options)
    return [logits, *scored[:-1], *gradients]


def test_blocks_change_no_bit(monkeypatch):
    whole = everything(kernel="torch")
    monkeypatch.setattr(limits, "OPERAND", 2**9)
    monkeypatch.setattr(limits, "PRODUCTS", 2**7)
    monkeypatch.setattr(limits, "PAIRS", 2**7)
    monkeypatch.setattr(limits, "ROWS", 2**12)
    for one, other in zip(everything(kernel="torch")[:-2], whole, strict=False):
        assert one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def test_products_that_are_wrong_within_the_bound_keep_the_bits(monkeypatch):
    hidden, weight = operands("normal", torch.float32, 5, 200, 64)
    wanted = isologit.logits(hidden, weight)
    right, share = products.multiply, random(5, 200).tanh()

    def wrong(by, a, b):
        return right(a, b) + share * by * a.norm(dim=-1)[:, None] * b.norm(dim=-1)

    monkeypatch.setattr(products, "multiply", lambda a, b: wrong(60 * 2.0**-53, a, b))
    assert same_bits(isologit.logits(hidden, weight, kernel="torch"), wanted)
    # And a certificate that does not hold shows: the comparison can fail.
    monkeypatch.setattr(products, "multiply", lambda a, b: wrong(2.0**-30, a, b))
    assert not same_bits(isologit.logits(hidden, weight, kernel="torch"), wanted)


def test_a_certificate_is_needed(monkeypatch):
    hidden, weight = operands("near ties", torch.float32)
    wanted = expected.logits(hidden, weight)
    assert same_bits(isologit.logits(hidden, weight, kernel="torch"), wanted)
    assert not same_bits((hidden.double() @ weight.double().T).float(), wanted)  # plain f64


@pytest.fixture
def untested():
    self_test._tested.cache_clear()
    yield
    self_test._tested.cache_clear()


def test_a_device_with_products_of_f32_is_refused(monkeypatch, untested):
    monkeypatch.setattr(products, "multiply", lambda a, b: (a.float() @ b.float().T).double())
    with pytest.raises(NotImplementedError, match="kernel 'torch' does not run on cpu: products of 1 rows"):
        isologit.logits(*operands("normal", torch.float32), kernel="torch")


# Imports what is named, and tells of each function how many elements it was given, each time.
FIRST_CALLS = """
import json, sys, torch
names, calls = json.loads(sys.argv[1]), {}
def noting(name, right):
    def call(x, *rest):
        calls.setdefault(name, []).append((x.numel(), str(x.dtype)))
        return right(x, *rest)
    return call
for name in names:
    setattr(torch, name, noting(name, getattr(torch, name)))
exec(sys.argv[2])
print(json.dumps(calls))
"""


@pytest.mark.parametrize("user", ["isologit.torch_backend.self_test", "isologit.audit", "isologit.hf"])
def test_functions_are_first_called_by_one_thread(user):
    """What several threads call at once for the first time may be of half the precision (pytorch issue 188792)."""
    names = json.dumps(first_calls.FUNCTIONS)
    command = [sys.executable, "-c", FIRST_CALLS, names, f"import {user}"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told == {name: [[1, "torch.float32"], [1, "torch.float64"]] for name in first_calls.FUNCTIONS}


def test_all_functions_are_known_to_the_self_test():
    known = {"exp", "log1p", "tanh", "cos", "sin", "sqrt", "exp2"}  # the last makes the self-test's own points
    vendors = "|".join([*first_calls.FUNCTIONS, "pow", "rsqrt", "sigmoid"])
    for file in Path(self_test.__file__).parent.rglob("*.py"):
        used = set(re.findall(rf"\.({vendors})_?\(", re.sub(r"math\.\w+", "", file.read_text())))
        assert used <= known, f"{file}: {used}"


@pytest.mark.parametrize("name", ["exp", "log1p", "tanh", "sqrt"])
def test_a_device_with_functions_of_f32_is_refused(monkeypatch, untested, name):
    right = getattr(torch, name)
    monkeypatch.setattr(torch, name, lambda x: right(x.float()).double())
    with pytest.raises(NotImplementedError, match=f"kernel 'torch' does not run on cpu: {name}"):
        self_test.require(CPU)


@pytest.fixture
def device_like(monkeypatch, untested):
    """Puts functions of torch in the place of its own."""

    def put(where, name, function):
        right = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *args, **options: function(right, *args, **options))

    return put


@pytest.mark.parametrize(
    ("where", "name", "function", "told"),
    [
        (torch.Tensor, "__truediv__", lambda right, x, y: x * right(torch.ones(()).double(), y), "divisions in f64"),
        (torch.Tensor, "__rtruediv__", lambda right, x, y: right(x, y) * (1 + 2.0**-52), "reciprocals in f64"),
        (torch.Tensor, "sum", lambda right, x, *a, **k: right(x.float(), *a, **k).double(), "sums of 7 numbers"),
        (torch.linalg, "vector_norm", lambda right, x, **k: right(x.float(), **k).double(), "the length of 7 numbers"),
    ],
    ids=["divisions", "reciprocals", "sums", "lengths"],
)
def test_a_device_that_computes_otherwise_is_refused(device_like, where, name, function, told):
    device_like(where, name, function)
    with pytest.raises(NotImplementedError, match=f"kernel 'torch' does not run on cpu: {told}"):
        self_test.require(CPU)


@pytest.mark.parametrize(("shape", "told"), [((3, 1), "1 rows"), ((256,), "256 rows")], ids=["batches", "many rows"])
def test_a_device_whose_products_differ_in_batches_or_of_many_rows_is_refused(device_like, shape, told):
    def products_of_f32(right, x, y):
        return right(x.float(), y.float()).double() if x.shape[: len(shape)] == shape else right(x, y)

    device_like(torch.Tensor, "__matmul__", products_of_f32)
    with pytest.raises(NotImplementedError, match=f"kernel 'torch' does not run on cpu: products of {told}"):
        self_test.require(CPU)


def test_a_device_whose_loops_of_vectors_convert_otherwise_is_refused(device_like):
    """By way of the nearest f32, but for single numbers and the last of many."""

    def vectors(right, x, dtype):
        short = right(x, dtype)
        short[: len(x) // 16 * 16] = x.float().to(dtype)[: len(x) // 16 * 16]
        return short

    device_like(self_test, "rounded", vectors)
    with pytest.raises(NotImplementedError, match="in torch.bfloat16 is 1.0 there, expected 1.0078125"):
        self_test.require(CPU)


def test_sums_are_trees_whatever_is_at_hand(monkeypatch):
    z = random(3, 1000) * 5
    whole = folds.sums(z, None)
    monkeypatch.setattr(limits, "PRODUCTS", 100)
    assert all(torch.equal(a, b) for a, b in zip(whole, folds.sums(z, None), strict=True))


def test_given_logits_are_not_written_to():
    z = random(4, 100)
    before = z.clone()
    isologit.log_softmax(z, temperature=0.5, kernel="torch")
    assert same_bits(z, before)


def test_a_buffer_with_a_part_of_a_gradient_is_marked(monkeypatch):
    from isologit.torch_backend import backward

    hidden, weight = operands("normal", torch.float32)
    buffer, calls = torch.zeros_like(weight), []

    def fails(self):
        calls.append(self)
        yield from ([slice(0, 20)] if len(calls) > 1 else [slice(0, len(weight))])
        if len(calls) > 1:
            raise MemoryError("no more")

    monkeypatch.setattr(backward._Problem, "id_slices", fails)
    logprobs = isologit.linear_logprobs(
        hidden.requires_grad_(), weight.requires_grad_(), integers(0, 41, 5), dweight_accumulate=buffer, kernel="torch"
    ).logprobs
    with pytest.raises(MemoryError):
        logprobs.sum().backward()
    assert buffer.isnan().all()


def test_it_is_listed_and_named():
    assert [kernel.name for kernel in isologit.kernels() if kernel.runnable].count("torch") == 1
    hidden, weight = operands("normal", torch.bfloat16)
    _, report = isologit.logits(hidden, weight, kernel="torch", return_report=True)
    assert (report.kernel, report.arithmetic, report.rows) == ("torch", "exact", 5)
    module = isologit.nn.LMHead(torch.nn.Parameter(weight))
    assert module.score(hidden, outputs=["lse"], kernel="torch").report.kernel == "torch"


def test_what_is_refused():
    hidden, weight = operands("normal", torch.bfloat16)
    with pytest.raises(NotImplementedError, match="arithmetic is 'fast', and hidden is on cpu; kernel 'torch' makes"):
        isologit.logits(hidden, weight, arithmetic="fast", kernel="torch")
    with pytest.raises(ValueError, match="kernel is 'torch', which takes tensors"):
        isologit.score(hidden.float().numpy(), weight.float().numpy(), outputs=["lse"], kernel="torch")
    with pytest.raises(ValueError, match="kept: 41; expected ids of the vocabulary"):
        isologit.score(hidden, weight, outputs=["lse"], kept=[[41]] * 5, kernel="torch")


@pytest.mark.parametrize("rows", [0, 2])
def test_rows_without_elements_are_refused_as_by_the_library(rows):
    for kernel in ("", "torch"):
        with pytest.raises(ValueError, match=rf"hidden: shape \[{rows}, 0\]; expected at least 0 rows and 1 column"):
            isologit.logits(torch.ones(rows, 0), torch.ones(3, 0), kernel=kernel)
        with pytest.raises(ValueError, match=rf"hidden: shape \[{rows}, 0\]; expected at least 0 rows and 1 column"):
            isologit.score(torch.ones(rows, 0), torch.ones(3, 0), outputs=["lse"], kernel=kernel)


def test_tensors_of_any_device_have_fakes():
    with FakeTensorMode():  # has devices that the machine lacks
        for device in ("cuda", "xpu"):
            hidden, weight = torch.empty(2, 3, 8, device=device), torch.empty(5, 8, device=device)
            ids = torch.zeros(2, 3, dtype=torch.int64, device=device)
            scored = isologit.linear_logprobs(hidden, weight, ids, return_entropy=True, top_k=2)
            loss = isologit.linear_cross_entropy(hidden, weight, ids)
            drawn = isologit.sample(hidden, weight, seed=1, sequence_id=0, position=0, temperature=torch.tensor(0.5))
            of_logits = isologit.log_softmax(torch.empty(4, 9, device=device), temperature=[1.0, 2.0, 3.0, 4.0])
            for tensor in (scored.logprobs, scored.entropy, scored.top_k_ids, loss, drawn.ids, of_logits):
                assert tensor.device.type == device
            assert isologit.logits(hidden, weight, softcap=3.0, dtype=torch.bfloat16).shape == (2, 3, 5)


def test_operands_of_two_devices_are_refused():
    with FakeTensorMode():
        hidden, weight = torch.empty(2, 8, device="cuda"), torch.empty(5, 8)
        with pytest.raises(ValueError, match="weight is on cpu, and hidden on cuda:0; expected one device"):
            isologit.score(hidden, weight, outputs=["lse"])
    with pytest.raises(NotImplementedError, match="hidden is on meta; a meta tensor has no values"):
        isologit.score(torch.empty(2, 8, device="meta"), torch.empty(5, 8), outputs=["lse"])


def test_devices(monkeypatch):
    found = isologit.devices()
    assert found[0].device == "cpu" and found[0].kernel in [k.name for k in isologit.kernels() if k.chosen]

    class Vendor:
        is_available, device_count = staticmethod(lambda: True), staticmethod(lambda: 1)
        get_device_name = staticmethod(lambda device: f"an {device.type}")

    monkeypatch.setattr(torch, "xpu", Vendor)
    monkeypatch.setattr(self_test, "_tested", lambda device: "it lacks f64")
    assert isologit.devices()[-1] == ("xpu:0", "an xpu", "torch", "it lacks f64", "")


def test_what_is_run_on_a_gpu_finds_the_backend_right():
    script = Path(__file__).resolve().parents[2] / "scripts" / "gpu_torch_backend.py"
    run = subprocess.run([sys.executable, script, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("all right") == 4
