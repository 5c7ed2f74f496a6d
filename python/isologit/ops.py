"""The language-model head as an operator, and the registry that finds an implementation of it.

op = isologit.ops.get_op("lm_head")          # by the device of the tensors it is given
op = isologit.ops.get_op("lm_head", "cpu")   # this backend or an error
logits = op(hidden, weight, bias)
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from isologit._logits import logits
from isologit._torch import cuda

_log = logging.getLogger("isologit.ops")


class Op(Protocol):
    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...

    def forward_fp32(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...


class _Head:
    """The head of this library: exact logits, by a kernel or the best for the tensors' device."""

    def __init__(self, kernel: str = "") -> None:
        self._kernel = kernel

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return logits(hidden, weight, bias=bias, dtype=hidden.dtype, kernel=self._kernel)

    def forward_fp32(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return logits(hidden, weight, bias=bias, dtype=torch.float32, kernel=self._kernel)


class Backend(NamedTuple):
    """One implementation. `why_not` tells what it lacks to run here, or "" when it runs."""

    name: str
    device: str  # "cuda", "rocm", "cpu", or "any"
    priority: int  # the highest that runs is taken, among those of a tensor's own device
    make: Callable[[], Op]
    why_not: Callable[[], str]


def _without_library() -> str:
    return "" if cuda.library() is not None else f"there is no {cuda.LIBRARY.name} in {cuda.LIBRARY.parent}"


_BUILT_IN = (
    Backend("cuda", "cuda", 100, _Head, _without_library),
    Backend("cpu", "cpu", 100, _Head, lambda: ""),
    Backend("torch", "any", 100, lambda: _Head("torch"), lambda: ""),
)
_DEVICES = ("cuda", "rocm", "cpu", "any")  # those of "any" come after a device's own
_lock = threading.Lock()
_registry: dict[str, dict[str, Backend]] = {"lm_head": {backend.name: backend for backend in _BUILT_IN}}
_told: set[tuple[str, str, str]] = set()


def register(
    op: str,
    backend: str,
    make: Callable[[], Op],
    *,
    device: str,
    priority: int = 0,
    why_not: Callable[[], str] = lambda: "",
) -> None:
    """Adds an implementation. make() gives an object with forward and forward_fp32."""
    if device not in _DEVICES:
        raise ValueError(f"device is {device!r}; expected one of {', '.join(_DEVICES)}")
    with _lock:
        known = _registry.setdefault(op, {})
        if backend in known:
            raise ValueError(f"{op} has a backend {backend!r} already; unregister it first, or choose another name")
        known[backend] = Backend(backend, device, priority, make, why_not)


def unregister(op: str, backend: str) -> None:
    with _lock:
        if _registry.get(op, {}).pop(backend, None) is None:
            raise ValueError(f"{op} has no backend {backend!r}; it has {', '.join(_registry.get(op, {})) or 'none'}")


def backends(op: str) -> list[Backend]:
    """All of an operator, grouped by device, best first."""
    if op not in _registry:
        raise ValueError(f"op is {op!r}; known are {', '.join(_registry)}")
    return sorted(_registry[op].values(), key=lambda b: (_DEVICES.index(b.device), -b.priority, b.name))


def list_backends(op: str) -> list[dict[str, Any]]:
    """The same as plain values: which would be chosen on each device, and why the others do not run."""
    rows = []
    chosen: set[str] = set()
    for backend in backends(op):
        why_not = backend.why_not()
        takes = not why_not and backend.device not in chosen
        if takes:
            chosen.add(backend.device)
        rows.append(
            {
                "name": backend.name,
                "device": backend.device,
                "priority": backend.priority,
                "runnable": not why_not,
                "why_not": why_not,
                "chosen": takes,
            }
        )
    return rows


def _device_of(tensor: Tensor) -> str:
    if tensor.device.type == "cuda" and torch.version.hip is not None:
        return "rocm"
    return tensor.device.type


def _tell_once(op: str, backend: Backend, why_not: str, taken: str) -> None:
    with _lock:
        if (op, backend.name, taken) in _told:
            return
        _told.add((op, backend.name, taken))
    _log.warning("%s: backend %s does not run here (%s); %s is used instead", op, backend.name, why_not, taken)


class _Dispatched:
    """An operator: by the backend that is named, or at each call by the best that runs on hidden's device."""

    def __init__(self, op: str, backend: str | None) -> None:
        self._op = op
        self._made: dict[Backend, Op] = {}
        self._named = None if backend is None else self._make(_named(op, backend))

    def _make(self, backend: Backend) -> Op:
        if backend not in self._made:
            self._made[backend] = backend.make()
        return self._made[backend]

    def _choose(self, device: str) -> Op:
        if self._named is not None:
            return self._named
        passed_over: list[tuple[Backend, str]] = []
        for backend in backends(self._op):
            if backend.device not in (device, "any"):
                continue
            why_not = backend.why_not()
            if why_not:
                passed_over.append((backend, why_not))
                continue
            for other, reason in passed_over:
                _tell_once(self._op, other, reason, backend.name)
            return self._make(backend)
        tried = "; ".join(f"{backend.name}: {why_not}" for backend, why_not in passed_over) or "none is registered"
        raise RuntimeError(
            f"{self._op}: hidden is on {device!r}, and no backend for it runs here ({tried}). Backends of "
            "other devices are not tried: move the tensors, or register a backend"
        )

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Logits [..., V] of hidden [..., H] under weight [V, H] with bias [V], in hidden's dtype."""
        return self._choose(_device_of(hidden)).forward(hidden, weight, bias)

    def forward_fp32(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same in f32."""
        return self._choose(_device_of(hidden)).forward_fp32(hidden, weight, bias)

    __call__ = forward


class LMHeadOp(_Dispatched):
    """The language-model head: hidden [..., H] and weight [V, H] to logits [..., V].

    This library's backends give the exact sum of products and bias, rounded once.

    Parameters
    ----------
    backend : str, optional
        A registered one, which is used at every call. By default each call takes the best that runs on hidden's device.

    Raises
    ------
    ValueError
        No backend has that name.
    RuntimeError
        The named backend, or at a call all backends of the device, cannot run here; the message says why.
    """

    def __init__(self, backend: str | None = None) -> None:
        super().__init__("lm_head", backend)


def _named(op: str, backend: str) -> Backend:
    known = backends(op)
    for candidate in known:
        if candidate.name == backend:
            why_not = candidate.why_not()
            if why_not:
                raise RuntimeError(f"{op}: backend {backend!r} does not run here: {why_not}")
            return candidate
    raise ValueError(f"{op} has no backend {backend!r}; it has {', '.join(b.name for b in known)}")


def get_op(op: str, backend: str | None = None) -> Op:
    """The operator `op`, as an object with forward, forward_fp32, and forward as its call.

    Parameters
    ----------
    op : str
        "lm_head", which gives an LMHeadOp, or another name that something was registered for.
    backend : str, optional
        One that is named is used or is an error.
    """
    backends(op)  # a name that is not known is an error
    return LMHeadOp(backend) if op == "lm_head" else _Dispatched(op, backend)
