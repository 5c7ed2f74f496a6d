"""The operator and its registry."""

import itertools
import logging

import pytest

torch = pytest.importorskip("torch")
import expected  # noqa: E402
from expected import same_bits  # noqa: E402

from isologit import ops  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture
def registered():
    """register() whose backends are gone after the test."""
    names = []

    def register(name, *args, **options):
        ops.register("lm_head", name, *args, **options)
        names.append(name)

    yield register
    for name in names:
        ops.unregister("lm_head", name)


class Constant:
    def __init__(self, value):
        self.value = value

    def forward(self, hidden, weight, bias=None):
        return torch.full((*hidden.shape[:-1], weight.shape[0]), self.value)

    forward_fp32 = forward


@pytest.mark.parametrize(("dtype", "with_bias"), list(itertools.product(DTYPES, [False, True])))
def test_results_are_the_exact_sum_rounded_once(dtype, with_bias):
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(n, 20, generator=generator).to(dtype) for n in (3, 17))
    bias = torch.randn(17, generator=generator).to(dtype) if with_bias else None
    for op in (
        ops.LMHeadOp(),
        ops.get_op("lm_head"),
        ops.get_op("lm_head", "cpu"),
        ops.get_op("lm_head", backend="cpu"),
    ):
        assert isinstance(op, ops.LMHeadOp)
        got = op.forward(hidden, weight, bias)
        assert got.dtype == dtype and same_bits(got, expected.logits(hidden, weight, bias, dtype))
        assert same_bits(op(hidden, weight, bias), got)
        assert same_bits(op.forward_fp32(hidden, weight, bias), expected.logits(hidden, weight, bias))
        # Axis A
        assert same_bits(op.forward(hidden[1:2], weight, bias), got[1:2])
        assert same_bits(op.forward(hidden.reshape(3, 1, 20), weight, bias), got.reshape(3, 1, 17))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_those_of_linear(dtype):
    generator = torch.Generator().manual_seed(4)
    leaves = [
        torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in ((3, 20), (17, 20), (17,))
    ]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    upstream = torch.randn(3, 17, generator=generator)
    op = ops.get_op("lm_head")
    for forward, upstream_dtype in ((op.forward, dtype), (op.forward_fp32, torch.float32)):
        upstream = upstream.to(upstream_dtype)
        got = torch.autograd.grad(forward(*leaves), leaves, upstream)
        exact = torch.autograd.grad(torch.nn.functional.linear(*wide), wide, upstream.double())
        for g, e in zip(got, exact, strict=True):
            assert g.dtype == dtype
            # The bound of CONTRACT.md 5 stays below 2^-12 of the largest here; beside it the rounding to dtype.
            digits = expected.FORMATS[dtype][0]
            assert ((g.double() - e).abs() <= e.abs() * 2.0**-digits + e.abs().max() * 2.0**-12).all()


def test_what_is_listed():
    rows = {row["name"]: row for row in ops.list_backends("lm_head")}
    assert rows["cpu"]["chosen"] and rows["cpu"]["runnable"]
    assert rows["torch"]["device"] == "any" and rows["torch"]["runnable"]
    assert rows["cuda"]["runnable"] == (not rows["cuda"]["why_not"]) and "libisologit_cuda" in rows["cuda"]["why_not"]
    with pytest.raises(ValueError, match="known are lm_head"):
        ops.get_op("attention")


def test_a_backend_of_the_user(registered):
    hidden, weight = torch.ones(2, 3), torch.ones(4, 3)
    registered("mine", lambda: Constant(7.0), device="cpu", priority=200)
    assert (ops.get_op("lm_head")(hidden, weight) == 7).all()
    assert (ops.get_op("lm_head").forward_fp32(hidden, weight) == 7).all()
    assert (ops.get_op("lm_head", "cpu")(hidden, weight) == 3).all()
    registered("low", lambda: Constant(8.0), device="cpu", priority=-1)
    assert (ops.get_op("lm_head")(hidden, weight) == 7).all()
    assert [row["name"] for row in ops.list_backends("lm_head") if row["device"] == "cpu"] == ["mine", "cpu", "low"]
    with pytest.raises(ValueError, match="has a backend 'mine' already"):
        registered("mine", lambda: Constant(7.0), device="cpu")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        registered("other", lambda: Constant(7.0), device="tpu")


def test_falling_back_is_told_once(registered, caplog):
    hidden, weight = torch.ones(2, 3), torch.ones(4, 3)
    registered("broken", lambda: Constant(7.0), device="cpu", priority=200, why_not=lambda: "no such instruction")
    op = ops.get_op("lm_head")
    with caplog.at_level(logging.WARNING, logger="isologit.ops"):
        for _ in range(3):
            assert (op(hidden, weight) == 3).all()
    assert [record.getMessage() for record in caplog.records] == [
        "lm_head: backend broken does not run here (no such instruction); cpu is used instead"
    ]
    row = next(row for row in ops.list_backends("lm_head") if row["name"] == "broken")
    assert (row["runnable"], row["why_not"], row["chosen"]) == (False, "no such instruction", False)


def test_a_named_backend_never_falls_back(registered):
    registered("broken", lambda: Constant(7.0), device="cpu", priority=200, why_not=lambda: "no such instruction")
    with pytest.raises(RuntimeError, match="'broken' does not run here: no such instruction"):
        ops.get_op("lm_head", "broken")
    with pytest.raises(RuntimeError, match="'cuda' does not run here"):
        ops.get_op("lm_head", backend="cuda")
    with pytest.raises(ValueError, match="lm_head has no backend 'metal'; it has cuda, broken, cpu, torch$"):
        ops.get_op("lm_head", "metal")


def test_other_devices_do_not_fall_to_the_cpu(registered):
    with torch._subclasses.FakeTensorMode():
        hidden, weight = torch.empty(2, 3, device="cuda"), torch.empty(4, 3, device="cuda")
        assert ops.get_op("lm_head")(hidden, weight).device.type == "cuda"
        registered("mine", lambda: Constant(7.0), device="cuda")
        assert ops.get_op("lm_head")(hidden, weight).shape == (2, 4)


def test_the_torch_backend_by_its_name():
    generator = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(3, 64, generator=generator), torch.randn(9, 64, generator=generator)
    assert expected.same_bits(ops.get_op("lm_head", "torch")(hidden, weight), expected.logits(hidden, weight))


def test_switches_are_ignored_and_left():
    generator = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(3, 64, generator=generator), torch.randn(9, 64, generator=generator)
    op = ops.get_op("lm_head")
    wanted = expected.logits(hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = op(hidden, weight)
        assert got.dtype == torch.float32 and same_bits(got, wanted)
        assert torch.is_autocast_enabled("cpu")


def test_compiles_without_a_break():
    hidden, weight = torch.randn(3, 8), torch.randn(9, 8)
    op = ops.LMHeadOp()
    compiled = torch.compile(lambda h, w: op.forward(h, w) + 1, fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(hidden, weight), op.forward(hidden, weight) + 1)
