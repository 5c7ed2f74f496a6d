"""The forward pass on the torch backend: its own tests, on it; and what is only this backend's."""

import mpmath
import pytest

torch = pytest.importorskip("torch")
import forced_torch  # noqa: E402
import test_forward  # noqa: E402
import test_forward_gradients  # noqa: E402
import test_forward_models  # noqa: E402
import test_near_ties  # noqa: E402
from test_forward import normal  # noqa: E402

from isologit import forward  # noqa: E402
from isologit.torch_backend import limits  # noqa: E402
from isologit.torch_backend.forward import alike, attention, attention_gradients, gates, rotary, rows  # noqa: E402

for _module, _without in (
    (test_forward, {}),
    (test_forward_gradients, {}),
    (test_near_ties, {}),
    (
        test_forward_models,
        {
            name: "the model's operators are tested, and one model of each kind by the next"
            for name in ("test_generate_agrees_with_prefill", "test_a_batch_with_padding_generates_what_its_rows_do")
        },
    ),
):
    globals().update(forced_torch.tests_of(_module, _without))
everything_goes_to_the_torch_backend = forced_torch.everything_goes_to_the_torch_backend


@pytest.fixture(autouse=True)
def near_ties_once(monkeypatch):
    """The core's kernels are tested in test_near_ties; here they are all this backend."""
    monkeypatch.setattr(test_near_ties, "KERNELS", [""])


def operators(dtype=torch.bfloat16, rows=40):
    """Each with usual operands."""
    x, up = normal(rows, 24, dtype=dtype), normal(rows, 24, dtype=dtype, seed=1)
    q, keys, values = normal(30, 4, 16, dtype=dtype), normal(50, 2, 16, dtype=dtype), normal(50, 2, 16, dtype=dtype)
    lists = {"query_starts": torch.tensor([0, 17, 30]), "key_counts": torch.tensor([17, 33])}
    frequencies = forward.rotary_frequencies(1e4, 16)
    return {
        "rms_norm": lambda **k: forward.rms_norm(x, normal(24), 1e-6, **k),
        "layer_norm": lambda **k: forward.layer_norm(x, normal(24), normal(24), 1e-5, **k),
        "silu": lambda **k: forward.gate(x, up, **k),
        "gelu_tanh": lambda **k: forward.gate(x, up, kind="gelu_tanh", **k),
        "rotary": lambda **k: forward.rotary(x.view(rows, 1, 24), torch.arange(rows) ** 4, frequencies, **k),
        "residual": lambda **k: forward.residual(x, up, x * 2**-9, multiplier=0.3, **k),
        "attention": lambda **k: forward.attention(q, keys, values, scale=0.25, softcap=4.0, **lists, **k),
    }


@pytest.fixture
def by_core(monkeypatch):
    """How many rows the core was asked for."""
    asked = []
    on_cpu, of_a_query = rows.on_cpu, attention._by_core
    monkeypatch.setattr(rows, "on_cpu", lambda x, some=None: (asked.append(some is not None), on_cpu(x, some))[1])
    monkeypatch.setattr(attention, "_by_core", lambda *given: (asked.append(True), of_a_query(*given))[1])
    return lambda: sum(asked)


def of_the_library(monkeypatch, name, **options):
    with monkeypatch.context() as patch:
        patch.setattr("isologit.torch_backend.takes", lambda arguments: False)
        return operators(**options)[name]()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", operators())
def test_usual_rows_are_the_devices_own(monkeypatch, by_core, name, dtype):
    right = of_the_library(monkeypatch, name, dtype=dtype)
    assert torch.equal(operators(dtype)[name](), right)
    assert by_core() == 0


@pytest.mark.parametrize(("name", "module"), [("silu", gates), ("gelu_tanh", gates), ("attention", attention)])
def test_functions_that_are_wrong_within_the_bound_keep_the_bits(monkeypatch, by_core, name, module):
    right = of_the_library(monkeypatch, name, rows=400)
    exp = torch.exp
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    monkeypatch.setattr(torch, "exp", lambda x: exp(x) * (1 + 2.0**-14 * signs[torch.arange(x.shape[-1]) % 2]))
    assert not torch.equal(operators(rows=400)[name](), right)  # what would be without a bound that holds it
    monkeypatch.setattr(module, "FUNCTION_ERROR", 2.0**-13)
    assert torch.equal(operators(rows=400)[name](), right)
    assert by_core() > 0


def test_tiles_change_no_bit(monkeypatch):
    found = {name: function() for name, function in operators().items()}
    for module, numbers in ((limits, {"PRODUCTS": 2**8, "OPERAND": 2**9, "PAIRS": 2**8}), (attention, {"_QUERIES": 3})):
        for name, number in numbers.items():
            monkeypatch.setattr(module, name, number)
    monkeypatch.setattr(attention, "_KEYS", 5)
    for name, function in operators().items():
        assert torch.equal(function(), found[name]), name


def test_rows_that_a_vendor_sums_unlike_are_multiplied_alone(monkeypatch):
    """With products whose bits depend on the row's place, gradients of a query still depend on it alone."""
    q, keys, values = (normal(n, 2, 16, seed=n).requires_grad_() for n in (40, 40, 40))

    def dq(some):
        y = forward.attention(q[some], keys, values, scale=0.25, causal=False)
        return torch.autograd.grad(y.float().square().sum(), q)[0][some]

    bmm = torch.bmm

    def unlike(left, right):
        places = torch.arange(left.shape[0] * left.shape[1], dtype=torch.float64).view(left.shape[0], -1, 1)
        return bmm(left, right) * (1 + 2.0**-10 * places)

    whole = dq(slice(0, 40))
    monkeypatch.setattr(torch, "bmm", unlike)
    alike._summed_alike.cache_clear()
    try:
        assert torch.equal(dq(slice(0, 40)), whole)
        assert torch.equal(dq(slice(7, 9)), whole[7:9])
    finally:
        alike._summed_alike.cache_clear()
    assert attention_gradients._QUERIES < 40  # rows of several tiles were compared


def test_angles_of_all_positions_are_within_their_bound():
    """Also where they are many turns: up to 2^31."""
    generator = torch.Generator().manual_seed(1)
    places = torch.cat([2 ** torch.arange(31), torch.randint(0, 2**31, (300,), generator=generator)])
    frequencies = torch.tensor([1.0, float.fromhex("0x1.921fb6p-1"), 0.3, 2.0**-20])
    cosine, sine, _ = rotary.turns(places, frequencies)
    with mpmath.workprec(200):
        for place, cosines, sines in zip(places.tolist(), cosine[:, 0].tolist(), sine[:, 0].tolist(), strict=True):
            for frequency, c, s in zip(frequencies.tolist(), cosines, sines, strict=True):
                angle = place * mpmath.mpf(frequency)
                error = max(abs(mpmath.cos(angle) - c), abs(mpmath.sin(angle) - s))
                assert error < 2.0**-49, (place, frequency, error)


def test_far_positions_have_the_cores_bits(monkeypatch):
    places = 2**31 - 1 - torch.arange(2**17)
    x = normal(len(places), 1, 2, dtype=torch.float32)

    def turned():
        return forward.rotary(x, places, torch.tensor([1.0]))

    found = turned()
    monkeypatch.setattr("isologit.torch_backend.takes", lambda arguments: False)
    assert torch.equal(found, turned())


def test_neither_how_many_nor_layouts_show_in_products(monkeypatch):
    """Of a vendor with other code for operands that lie otherwise."""
    bmm = torch.bmm

    def unlike(left, right):
        return bmm(left, right) * (1 + 2.0**-40 * (2 * left.is_contiguous() + right.is_contiguous()))

    monkeypatch.setattr(torch, "bmm", unlike)
    left, right = (normal(32, *shape, dtype=torch.float64) for shape in ((32, 70), (70, 64)))
    found = alike.multiply(left, right)
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (left, right)]
    for first in (left, apart[0]):
        for second in (right, apart[1]):
            for count in (1, 16, 21, 32):
                assert torch.equal(alike.multiply(first[:count], second[:count]), found[:count])
