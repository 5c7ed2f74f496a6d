"""The CUDA library by ctypes: what it is told, and what its errors become."""

import ctypes
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from isologit import _cuda  # noqa: E402


def test_what_the_library_is_told_of_draws():
    head = _cuda.Head(torch.ones(3, 8), torch.ones(5, 8))
    positions = torch.tensor([0, 2**31, 2**32 - 1])
    draws = _cuda.Draws(torch.tensor([-1]), torch.tensor([1, 2, 3]), positions, top_k=torch.tensor([4])).checked(head)
    fields = draws.fields()
    counts = [fields[f"{name}_count"] for name in ("seed", "sequence_id", "position", "min_p", "top_k")]
    assert counts == [1, 3, 3, 0, 1]
    assert draws.positions.numpy().view("uint32").tolist() == positions.tolist() and fields["min_p"] is None
    assert fields.keys() <= {name for name, _ in _cuda.SampleRequest._fields_}
    with pytest.raises(ValueError, match="top_p: torch.float64 on cpu; expected torch.float32 on cpu"):
        draws._replace(positions=positions, top_p=torch.ones(1, dtype=torch.float64)).checked(head)


@pytest.mark.parametrize(
    ("status", "error"),
    [(1, ValueError), (2, NotImplementedError), (3, RuntimeError), (5, torch.OutOfMemoryError)],
)
def test_errors_of_the_library(status, error):
    class Native:
        @staticmethod
        def isologit_cuda_self_test(device, arithmetic, message, size):
            message.value = b"what was found"
            return status

    native = object.__new__(_cuda.Library)
    native._library, native._tested = Native, set()
    with pytest.raises(error, match="what was found"):
        native.self_test(1)
    status = 0
    native.self_test(1)
    assert native._tested == {(1, "exact")}  # of this device; others are tested at their own first use
    native.self_test(0, "fast")
    assert native._tested == {(1, "exact"), (0, "fast")}


@pytest.mark.parametrize("name", ["weight", "bias", "out"])
def test_operands_of_several_devices_are_refused(name):
    operands = {"hidden": torch.ones(2, 8), "weight": torch.ones(5, 8), "bias": torch.ones(5), "out": torch.ones(2, 5)}
    operands[name] = operands[name].to("meta")
    with pytest.raises(ValueError, match=f"{name} is on meta and hidden on cpu; expected one device"):
        object.__new__(_cuda.Library).logits(**operands)


def test_out_of_memory_is_torchs_own_before_anything_is_launched(monkeypatch):
    """Results and workspace come from torch's allocator, and are there before the library is called."""
    launched = []
    native = object.__new__(_cuda.Library)
    native._tested = {(-1, "exact")}
    monkeypatch.setattr(_cuda.Library, "_call", lambda self, name, *_: launched.append(name))

    def full(*_, **__):
        raise torch.OutOfMemoryError("full")

    operands = torch.ones(2, 8), torch.ones(5, 8)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        native.logits(*operands)
    assert launched in ([], ["isologit_cuda_logits_workspace"])


@pytest.fixture
def told(monkeypatch):
    """What the library is called with, and by which name."""
    calls = []
    native = object.__new__(_cuda.Library)
    native._tested = {(-1, "exact")}
    monkeypatch.setattr(_cuda.Library, "_call", lambda self, name, request: calls.append((name, request._obj)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    return native, calls


def members(structure):
    return [getattr(structure, name) for name, _ in structure._fields_]


def test_what_the_library_is_told_of_operators(told):
    native, calls = told
    x, a = torch.ones(6, 4, 8).bfloat16(), torch.ones(6, 4, 16).bfloat16()[:, :, :8]
    y, weight = torch.empty(6, 4, 8).bfloat16(), torch.ones(8)
    native.rms_norm(x, weight, 0.5, True, y)
    native.residual(x, a, None, 2.0, y)
    assert native.gate(a, x, 1, 3.0, 4.0, y) is None
    positions, frequencies = torch.arange(12)[::2], torch.ones(3)
    assert native.rotary(x, positions, frequencies, 1, 5.0, y).shape == (2,)
    assert [name.removeprefix("isologit_cuda_") for name, _ in calls] == ["rms_norm", "residual", "gate", "rotary"]
    norm, sum_, gate, rotary = (request for _, request in calls)
    for _, request in calls:
        assert request.struct_size == ctypes.sizeof(request) and (request.device, request.stream) == (-1, 7)
        assert members(request.y) == [y.data_ptr(), 32, 8]
    assert members(norm.x) == [x.data_ptr(), 6, 4, 8, 32, 8, 0]
    assert members(norm.weight) == [weight.data_ptr(), 8, 2] and (norm.epsilon, norm.one_plus_weight) == (0.5, 1)
    assert members(sum_.a) == [a.data_ptr(), 6, 4, 8, 64, 16, 0] and sum_.b.data is None and sum_.multiplier == 2.0
    assert (gate.gate.data, gate.up.data) == (a.data_ptr(), x.data_ptr())
    assert (gate.kind, gate.alpha, gate.limit, gate.status) == (1, 3.0, 4.0, None)
    assert (rotary.frequencies, rotary.frequency_count) == (frequencies.data_ptr(), 3)
    assert (rotary.layout, rotary.factor) == (1, 5.0) and rotary.status


def test_which_gates_have_a_status(told):
    native, _ = told
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        g = torch.ones(1, 1, 8, dtype=dtype)
        has = [native.gate(g, None, kind, 1.0, 1.0, g.clone()) is not None for kind in range(4)]
        assert has == [dtype == torch.float32, dtype == torch.float32, False, True]
