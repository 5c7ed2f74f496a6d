"""The CUDA library by ctypes: what it is told, and what its errors become."""

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
