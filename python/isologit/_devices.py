"""What runs where: the devices that torch sees, and which kernels take their tensors."""

import sys
from typing import Any, NamedTuple

from isologit import _native

# Compute capabilities whose f64 is at half of their f32 rate or more.
_STRONG_F64 = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))


class Device(NamedTuple):
    """A device that tensors may be on.

    Attributes
    ----------
    device : str
        As torch names it, "cuda:0".
    name : str
        The vendor's name of it.
    kernel : str
        What takes its tensors by default: of the CPU the best of the library, of others "torch".
    why_not : str
        Why it is not used, or "".
    told : str
        What else there is to know.
    """

    device: str
    name: str
    kernel: str
    why_not: str
    told: str


def best_kernel() -> _native.Kernel:
    """The one of the library that exact calls take by default."""
    return next(kernel for kernel in _native.kernels() if kernel.chosen and kernel.arithmetic == "exact")


def devices() -> list[Device]:
    """The CPU, and the others that torch sees. Each of these is tested, as at its first use."""
    best = best_kernel()
    found = [Device("cpu", best.instruction_set, best.name, "", "")]
    try:
        import torch
    except ModuleNotFoundError:
        return found
    for kind in ("cuda", "xpu", "mps"):
        module = getattr(torch, kind, None)
        if module is None or not module.is_available():
            continue
        found += [_other(torch.device(kind, number), module) for number in range(module.device_count())]
    return found


def _other(device: Any, module: Any) -> Device:
    from isologit.torch_backend import self_test

    name = module.get_device_name(device) if hasattr(module, "get_device_name") else device.type
    told = []
    if device.type == "cuda" and sys.modules["torch"].version.hip is None:
        from isologit._torch import cuda

        if cuda.library() is not None:
            told.append("plain logits, linears, scores and their gradients by the CUDA library")
        if module.get_device_capability(device) not in _STRONG_F64:
            told.append("its f64 is much slower than its f32, and so are many rows")
    return Device(str(device), name, _native.TORCH, self_test.why_not(device), "; ".join(told))
