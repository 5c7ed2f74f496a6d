"""What runs where: the devices that torch sees, and which kernels take their tensors."""

import sys
import time
from collections.abc import Callable
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
        What takes its tensors by default: of the CPU the best of the library, of CUDA's "cuda" where its library is,
        which leaves to "torch" what it does not make; of others "torch".
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


class Rates(NamedTuple):
    """What a device does in a second: bytes that a copy reads and writes; operations of products in f64 and in bf16."""

    copied: float
    f64: float
    bf16: float


def check(name: str) -> None:
    """ValueError unless torch can put a tensor there."""
    import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        known = ", ".join(device.device for device in devices())
        told = str(error).splitlines()[0]
        raise ValueError(f"--device: {name!r} is not usable: {told}; there are {known}") from None


_COPY, _SIDE, _TIMES = 256 << 20, 4096, 5  # bytes; of the square matrices of products; of which the best counts


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
    told, kernel = [], _native.TORCH
    if device.type == "cuda" and sys.modules["torch"].version.hip is None:
        from isologit._torch import cuda

        if cuda.library() is not None:
            refused = _refused_by(cuda.library(), device.index)
            if refused:
                told.append(f"the CUDA library refuses it: {refused}")
            else:
                kernel = _native.CUDA
        if module.get_device_capability(device) not in _STRONG_F64:
            told.append("its f64 is much slower than its f32, and so are many rows")
    return Device(str(device), name, kernel, self_test.why_not(device), "; ".join(told))


def _refused_by(library: Any, index: int) -> str:
    """Why, by the library's own self-test, or ""."""
    try:
        library.self_test(index)
    except (NotImplementedError, RuntimeError) as error:
        return str(error)
    return ""


def rates(device: str) -> Rates | None:
    """Measured now, in about a second, with 0.5 GiB of the device's memory; None where it has not so much."""
    import torch

    synchronize = getattr(torch, torch.device(device).type).synchronize

    def seconds(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(_TIMES + 1):  # the first is for what is loaded at first use
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    try:
        source = torch.zeros(_COPY, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copied = 2 * _COPY / seconds(lambda to=target, of=source: to.copy_(of))
        products = []
        for dtype, side in ((torch.float64, _SIDE // 2), (torch.bfloat16, _SIDE)):
            square = torch.ones(side, side, dtype=dtype, device=device)
            result = torch.empty_like(square)
            products.append(2 * side**3 / seconds(lambda a=square, out=result: torch.matmul(a, a, out=out)))
    except torch.OutOfMemoryError:
        return None
    return Rates(copied, *products)
