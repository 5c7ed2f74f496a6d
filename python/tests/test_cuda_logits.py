"""Logits of CUDA tensors after transforms, with a report or for autograd, by what stands in for the CUDA library."""

import ctypes
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

import cuda_stand_ins  # noqa: E402
from cuda_stand_ins import score_args, tensors  # noqa: E402

import isologit  # noqa: E402
from isologit import _cuda  # noqa: E402
from isologit._logits import LogitsArgs  # noqa: E402
from isologit._torch import cuda  # noqa: E402

library = cuda_stand_ins.library
STEPS = {"softcap": 3.0, "divide": 1.5, "transform_order": "scale_first", "temperature": torch.linspace(0.5, 2.0, 6)}


class Logits:
    """In the place of the library: the logits by the CPU's kernels."""

    status = (0, 0)

    def transformed(self, head, out):
        assert out.shape == (6, 4) and out.dtype == torch.float32
        order = "scale_first" if head.scale_first else "softcap_first"
        steps = {name: getattr(head, name) for name in ("bias", "softcap", "scale", "divide", "vocab_size")}
        out.copy_(
            isologit.logits(head.hidden, head.weight, temperature=head.temperatures, transform_order=order, **steps)
        )
        if any(self.status):
            out[0, 0] = torch.nan
        return torch.tensor(self.status)


def operands():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator).bfloat16() for size in ((6, 8), (5, 8), (5,))]


def logits_of(hidden, weight, bias, kernel, **options):
    options = {"vocab_size": 4, "return_report": True} | STEPS | options
    return isologit.logits(hidden, weight, bias=bias, kernel=kernel, **options)


@pytest.fixture
def made(monkeypatch):
    """As if tensors on the CPU were the library's."""
    stub = Logits()
    monkeypatch.setattr(cuda, "library", lambda: stub)
    monkeypatch.setattr(cuda, "makes_logits", lambda args: args.dtype == torch.float32)
    return stub


def test_logits_after_transforms_are_the_librarys(made):
    found, report = logits_of(*operands(), "torch")
    right, _ = logits_of(*operands(), "")
    assert torch.equal(found, right)
    assert (report.kernel, report.arithmetic, report.rows) == ("cuda", "exact", 6)
    narrow, report = logits_of(*operands(), "torch", dtype=torch.bfloat16)
    assert torch.equal(narrow, logits_of(*operands(), "", dtype=torch.bfloat16)[0]) and report.kernel == "torch"


def test_what_is_left_open_the_torch_backend_makes(made):
    made.status = (1, 0)
    found, report = logits_of(*operands(), "torch")
    assert torch.equal(found, logits_of(*operands(), "")[0]) and report.kernel == "torch"


def test_autograd_goes_through_them(made):
    gradients = []
    for kernel in ("torch", ""):
        leaves = [x.float().requires_grad_() for x in operands()]
        z, _ = logits_of(*leaves, kernel)
        (z * torch.linspace(-1, 2, 24).view(6, 4)).sum().backward()
        gradients.append([x.grad for x in leaves])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_fast_logits(made, monkeypatch):
    _, report = logits_of(*operands(), "torch", arithmetic="fast")
    assert (report.kernel, report.arithmetic) == ("cuda_fast", "fast")
    hidden, weight, bias = operands()
    z, _ = logits_of(hidden.requires_grad_(), weight, bias, "torch", arithmetic="fast")
    with pytest.raises(NotImplementedError, match="gradients of fast logits on cpu"):
        z.sum().backward()
    made.status = (1, 0)
    with pytest.raises(RuntimeError, match="does not prove these fast logits"):
        logits_of(*operands(), "torch", arithmetic="fast")
    monkeypatch.undo()
    with pytest.raises(NotImplementedError, match="kernel 'torch' makes exact logits only"):
        logits_of(*operands(), "torch", arithmetic="fast")


def test_which_logits_the_library_makes(library):
    def makes(dtype=torch.float32, **changed):
        return cuda.makes_logits(LogitsArgs(score_args().head._replace(**changed), dtype))

    assert makes() and makes(softcap=30.0, scale=2.0) and makes(kernel="cuda") and makes(arithmetic="fast")
    assert not makes(torch.bfloat16) and not makes(torch.float16)
    assert not makes(kernel="torch") and not makes(arithmetic="fast", kernel="cuda")
    hidden, weight = tensors(torch.float32)
    assert not makes(arithmetic="fast", hidden=hidden.view(6, 8), weight=weight)
    assert not makes(hidden=torch.empty(0, 8, device="cuda"))


def test_graphs_of_torch_compile_have_the_operator(library, monkeypatch):
    """Which fakes tell of: a call of the library would break the graph."""
    hidden, weight = tensors()
    calls = []
    monkeypatch.setattr(cuda, "logits", lambda *args: calls.append(args))
    isologit.logits(hidden, weight)
    assert len(calls) == 1
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    made = isologit.logits(hidden, weight)
    assert len(calls) == 1
    assert (made.shape, made.dtype, made.device.type) == ((2, 3, 5), torch.float32, "cuda")


def test_what_the_library_is_told(monkeypatch):
    calls = []
    native = object.__new__(_cuda.Library)
    native._tested = {(-1, "exact")}
    monkeypatch.setattr(_cuda.Library, "_call", lambda self, name, request: calls.append((name, request._obj)))
    monkeypatch.setattr(native, "_workspace", lambda *_: torch.empty(48, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    (hidden, weight, bias), out, warm = operands(), torch.empty(6, 9)[:, :4], torch.ones(6)
    head = _cuda.Head(hidden, weight, bias, 4, warm, softcap=3.0, divide=1.5, scale_first=True)
    status = native.transformed(head, out)
    native.logits(hidden, weight, bias, vocab_size=4, out=out)
    for name, request in calls:
        assert name == "isologit_cuda_logits" and request.struct_size == ctypes.sizeof(request)
        assert (request.device, request.stream, request.vocab_size, request.workspace_size) == (-1, 7, 4, 48)
        assert (request.logits, request.logits_dtype, request.logits_stride) == (out.data_ptr(), 2, 9)
    (_, steps), (_, plain) = calls
    assert (steps.has_softcap, steps.softcap, steps.scale_kind, steps.scale, steps.transform_order) == (
        1,
        3.0,
        2,
        1.5,
        1,
    )
    assert (steps.temperatures, steps.temperature_count, steps.status) == (warm.data_ptr(), 6, status.data_ptr())
    assert (plain.has_softcap, plain.scale_kind, plain.temperature_count, plain.status) == (0, 0, 0, None)
