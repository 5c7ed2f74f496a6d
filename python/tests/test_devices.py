"""What is told of devices: by isologit.devices() and by `isologit kernels`."""

import json
import subprocess

import pytest

import isologit
from isologit import _command, _devices
from isologit._devices import Device

torch = pytest.importorskip("torch")


def test_rates(monkeypatch):
    monkeypatch.setattr(_devices, "_COPY", 1 << 20)
    monkeypatch.setattr(_devices, "_SIDE", 128)
    found = _devices.rates("cpu")
    assert 1e7 < found.copied < 1e13 and 1e6 < found.f64 < 1e14 and 1e6 < found.bf16 < 1e15

    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "zeros", full)
    assert _devices.rates("cpu") is None


@pytest.fixture
def seen(monkeypatch):
    """As if the executable listed one kernel and torch saw three devices."""
    entry = dict.fromkeys(("name", "instruction_set", "arithmetic", "dtypes", "runnable", "why_not", "chosen"))
    listed = {"kernels": [entry], "chosen": None, "chosen_fast": None}
    monkeypatch.setattr(
        subprocess, "check_output", lambda line, **_: json.dumps(listed) if "--json" in line else "  listed\n"
    )
    devices = [
        Device("cpu", "any", "avx2", "", ""),
        Device("xpu:0", "an xpu", "torch", "it lacks f64", ""),
        Device("cuda:0", "a card", "cuda", "", "its f64 is slow"),
        Device("cuda:1", "a full card", "torch", "", ""),
    ]
    rates = {"cuda:0": _devices.Rates(2.99e12, 6.4e13, 7.46e14), "cuda:1": None}
    monkeypatch.setattr(_devices, "devices", lambda: devices)
    monkeypatch.setattr(_devices, "rates", rates.__getitem__)


def test_kernels_tells_of_devices(seen, capsys):
    _command.kernels(False)
    assert capsys.readouterr().out.splitlines()[-8:] == [
        "  xpu:0: an xpu",
        "    self-test: not used: it lacks f64",
        "  cuda:0: a card",
        "    self-test: passed; kernel cuda; its f64 is slow",
        "    a second: copies 2990 GB, products 64.0 TFLOP in f64, 746.0 in bf16",
        "  cuda:1: a full card",
        "    self-test: passed; kernel torch",
        "    a second: not measured, its memory is in use",
    ]
    _command.kernels(True)
    found = json.loads(capsys.readouterr().out)["devices"]
    assert [one["device"] for one in found] == ["xpu:0", "cuda:0", "cuda:1"]
    assert [one["a_second"] for one in found] == [None, {"copied": 2.99e12, "f64": 6.4e13, "bf16": 7.46e14}, None]
    assert found[0]["why_not"] == "it lacks f64"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 3), (12, 0)])
@pytest.mark.parametrize("refused", ["", "sums are not rounded to nearest"])
def test_devices_of_cuda(monkeypatch, capability, refused):
    from isologit._torch import cuda
    from isologit.torch_backend import self_test

    class Library:
        @staticmethod
        def self_test(index):
            if refused:
                raise NotImplementedError(refused)
            assert index in (0, 1)

    for name, value in {
        "is_available": True, "device_count": 2, "get_device_name": "a card", "get_device_capability": capability
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(cuda, "library", Library)
    monkeypatch.setattr(self_test, "_tested", lambda device: "")
    found = isologit.devices()[1:]
    assert [one.device for one in found] == ["cuda:0", "cuda:1"]
    for one in found:
        assert (one.name, one.kernel, one.why_not) == ("a card", "torch" if refused else "cuda", "")
        # Of those of weak f64: consumer cards (8.9, 12.0) and B300 (10.3).
        assert ("its f64 is much slower" in one.told) == (capability in ((8, 9), (10, 3), (12, 0)))
        assert (f"the CUDA library refuses it: {refused}" in one.told) == bool(refused)
