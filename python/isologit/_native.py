"""isologit.h by ctypes: its structures, and one function for each of its calls.

ctypes releases the GIL for the time of a call. Pointers go in as integers; the caller keeps alive what they point to.
"""

import ctypes
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

from isologit._endings import end_with
from isologit._native_callbacks import OwnRows as OwnRows
from isologit._native_callbacks import PeersCalls, pointer, progress
from isologit._native_structures import (
    BackwardOptions,
    BackwardRequest,
    Head,
    KernelInfo,
    LogitsBackwardRequest,
    LogitsRequest,
    LogitsSampleRequest,
    SampleReport,
    SampleRequest,
    ScoreOptions,
    ScoreReport,
    ScoreRequest,
)

# What callers fill.
from isologit._native_structures import Gradient as Gradient
from isologit._native_structures import IdLists as IdLists
from isologit._native_structures import Lora as Lora
from isologit._native_structures import Matrix as Matrix
from isologit._native_structures import Vector as Vector

BF16, F16, F32 = 0, 1, 2
F64, F8_E4M3, F8_E5M2 = 1, 2, 3  # encodings
F8_REAL, F8_BF16 = 0, 1
SCALE_MULTIPLY, SCALE_DIVIDE = 1, 2
_TRANSFORM_ORDERS = ("softcap_first", "scale_first")
_ARITHMETICS = ("exact", "fast")
SUMMARY_DOUBLES = 5  # of an isologit_row_summary
TORCH = "torch"  # kernels that are not in the library: isologit.torch_backend
CUDA, CUDA_FAST = "cuda", "cuda_fast"  # and those of the CUDA library, isologit._torch.cuda
CUDA_LIBRARY = Path(__file__).with_name("libisologit_cuda.so")

_ERRORS: dict[int, type[Exception]] = {
    1: ValueError,
    2: NotImplementedError,
    3: FileNotFoundError,
    4: OSError,
    5: MemoryError,
}


class Report(NamedTuple):
    """What a call did. The kernel and the arithmetic made the logits; no count affects a bit of the results.

    Attributes
    ----------
    kernel : str
        The name of the kernel, one of those that `kernels` lists.
    arithmetic : str
        "exact" or "fast": how the logits were summed.
    threads : int
        How many threads took part.
    rounds : int
        Passes over the weight: 1, and one more for each widening of the arithmetic that some row needed.
    rows : int
        Rows that were computed: those that are not ignored.
    logit_fallbacks : int
        Logits that were settled by exact accumulation.
    undecided_rows : int
        Rows that took part in a further round at a wider precision.
    processors : int
        How many processors the threads could run on.
    """

    kernel: str
    arithmetic: str
    threads: int
    rounds: int
    rows: int
    logit_fallbacks: int
    undecided_rows: int
    processors: int

    @classmethod
    def of(cls, counts: Any) -> "Report":
        """Of what a call left in an array or tensor, int64 [8]: graphs of torch carry numbers, and no text."""
        kernel, arithmetic, *numbers = counts.tolist()
        return cls(kernel_names()[kernel], _ARITHMETICS[arithmetic], *numbers)


class Kernel(NamedTuple):
    """One way to make logits, and whether this machine can run it."""

    name: str
    instruction_set: str
    arithmetic: str
    why_not: str
    runnable: bool
    chosen: bool


def _load() -> ctypes.CDLL:
    path = Path(__file__).with_name("libisologit.dylib" if sys.platform == "darwin" else "libisologit.so")
    if not path.exists():
        raise ImportError(
            f"isologit: {path} is missing; expected the library beside the package: run `pip install .` in "
            "the repository's root"
        )
    library = ctypes.CDLL(os.fspath(path))
    message = [c_char_p, c_size_t]
    losses = [c_void_p, c_int64, c_void_p, c_int64, POINTER(c_float)]
    for name, result, arguments in (
        ("version", c_char_p, []),
        ("kernel_count", c_int, []),
        ("kernel", c_int, [c_int, POINTER(KernelInfo)]),
        ("score", c_int, [*map(POINTER, (Head, ScoreRequest, ScoreOptions, ScoreReport))] + message),
        ("backward", c_int, [*map(POINTER, (Head, BackwardRequest, BackwardOptions)), c_void_p] + message),
        ("sample", c_int, [*map(POINTER, (Head, SampleRequest, ScoreOptions, SampleReport))] + message),
        ("score_logits", c_int, [*map(POINTER, (LogitsRequest, ScoreOptions)), c_void_p] + message),
        ("score_given", c_int, [*map(POINTER, (Head, ScoreRequest, ScoreOptions, ScoreReport))] + message),
        ("sample_given", c_int, [*map(POINTER, (Head, SampleRequest, ScoreOptions, SampleReport))] + message),
        ("sample_logits", c_int, [*map(POINTER, (LogitsSampleRequest, ScoreOptions, SampleReport))] + message),
        ("backward_logits", c_int, [*map(POINTER, (LogitsBackwardRequest, BackwardOptions)), c_void_p] + message),
        ("mean_loss", c_int, losses + message),
        ("sum_loss", c_int, losses + message),
        ("mean_loss_upstream", c_int, [c_float, c_int64, POINTER(c_float)] + message),
        ("partial_begin", c_int, [*map(POINTER, (Head, ScoreRequest, ScoreOptions, c_void_p))] + message),
        ("partial_absorb", c_int, [c_void_p, POINTER(Head), c_int64] + message),
        ("partial_state", c_int, [c_void_p, c_void_p, c_size_t, POINTER(c_size_t)] + message),
        ("partial_merge", c_int, [c_void_p, c_char_p, c_size_t] + message),
        ("partial_finish_round", c_int, [c_void_p, POINTER(c_int32)] + message),
        ("partial_report", c_int, [c_void_p, POINTER(ScoreReport)] + message),
        ("partial_end", None, [c_void_p]),
        ("use_openmp", None, [c_void_p]),
    ):
        _declare(library, name, result, arguments)
    return library


def _declare(library: ctypes.CDLL, name: str, result: Any, arguments: list[Any]) -> Any:
    function = getattr(library, f"isologit_{name}")
    function.restype, function.argtypes = result, arguments
    return function


_library = _load()


def function(name: str, result: Any, arguments: list[Any]) -> Any:
    """A function of the library that is declared elsewhere."""
    return _declare(_library, name, result, arguments)


def use_openmp() -> None:
    """Lets the library run on the threads of the process's OpenMP, where it has one: while torch is there, its threads
    would take processors from others."""
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel is not None:
        _library.isologit_use_openmp(pointer(parallel))


def version() -> str:
    """The version of the library, as "0.1.0"."""
    return _library.isologit_version().decode()


def kernels() -> list[Kernel]:
    """The kernels that are built in, best first; then "torch", for tensors on devices that these do not run on, and
    "cuda" and "cuda_fast", for tensors on CUDA devices."""
    found = []
    for index in range(_library.isologit_kernel_count()):
        info = KernelInfo()
        _check(_library.isologit_kernel(index, info), b"no such kernel")
        texts = (getattr(info, name).decode() for name in ("name", "instruction_set", "arithmetic", "why_not"))
        found.append(Kernel(*texts, bool(info.runnable), bool(info.chosen)))
    why_not = "" if importlib.util.find_spec("torch") is not None else "PyTorch is not installed"
    torch = Kernel(TORCH, "any device of PyTorch", "exact", why_not, not why_not, False)
    missing = f"{CUDA_LIBRARY.name} is not beside the package (it comes with isologit-cuda)"
    why_not = why_not or ("" if CUDA_LIBRARY.exists() else missing)
    of_cuda = ((CUDA, "exact"), (CUDA_FAST, "fast"))
    cuda = [Kernel(name, "CUDA devices", what, why_not, not why_not, False) for name, what in of_cuda]
    return [*found, torch, *cuda]


@functools.cache
def kernel_names() -> list[str]:
    return [kernel.name for kernel in kernels()]


def _check(status: int, message: bytes) -> None:
    if status != 0:
        text = message.decode(errors="replace")
        raise _ERRORS.get(status, RuntimeError)(text or f"isologit returned status {status}")


def call(function: Any, *arguments: Any) -> None:
    """Calls a function whose last two arguments are a buffer for what went wrong."""
    message = ctypes.create_string_buffer(1024)
    _check(function(*arguments, message, len(message)), message.value)


class Interruptible:
    """Calls functions that a signal's handler that raises, such as that of Ctrl-C, stops between tiles."""

    def __init__(self, options: Any, running: "Running") -> None:
        self._raised: list[BaseException] = [] if running.peers is None else running.peers.raised
        if threading.current_thread() is threading.main_thread():  # no other runs handlers
            self._progress = progress(self._raised)
            options.progress = pointer(self._progress)

    def call(self, function: Any, *arguments: Any) -> None:
        try:
            call(function, *arguments)
        finally:
            if self._raised:
                raise self._raised[0] from None


def arithmetic_code(arithmetic: str, name: str = "arithmetic") -> int:
    if arithmetic not in _ARITHMETICS:
        raise ValueError(f"{name} is {arithmetic!r}; expected 'exact' or 'fast'")
    return _ARITHMETICS.index(arithmetic)


def transform_order_code(order: str) -> int:
    if order not in _TRANSFORM_ORDERS:
        raise ValueError(f"transform_order is {order!r}; expected 'softcap_first' or 'scale_first'")
    return _TRANSFORM_ORDERS.index(order)


def check_kernel(kernel: str) -> bytes:
    """The name of a kernel, or b"" for the best."""
    if kernel != "" and kernel not in kernel_names():
        raise ValueError(f"kernel: {kernel!r} is unknown; known are {', '.join(kernel_names())}")
    if kernel == TORCH:
        raise ValueError("kernel is 'torch', which takes tensors and not what this function has; leave it out")
    if kernel in (CUDA, CUDA_FAST):
        raise ValueError(
            f"kernel is {kernel!r}, which does not make this (docs/cuda.md tells what it makes of tensors on CUDA "
            "devices); leave it out"
        )
    return kernel.encode()


class Running(NamedTuple):
    """Where and with which kernel a call runs. processors: none for those of the calling thread."""

    threads: int
    processors: Sequence[int]
    kernel: str
    peers: PeersCalls | None = None

    def members(self) -> dict[str, Any]:
        """Those of the options."""
        numbers = (c_int32 * len(self.processors))(*self.processors) if self.processors else None
        peers = {} if self.peers is None else {"peers": ctypes.pointer(self.peers.native)}
        return {
            "threads": self.threads,
            "kernel": check_kernel(self.kernel),
            "processors": numbers,
            "processor_count": len(self.processors),
            **peers,
        }


def _score_options(arithmetic: str, running: Running) -> ScoreOptions:
    return ScoreOptions(arithmetic=arithmetic_code(arithmetic), **running.members())


def _counts_of(report: ScoreReport | SampleReport) -> list[int]:
    """What Report.of reads."""
    names = ("threads", "rounds", "rows", "logit_fallbacks", "undecided_rows", "processors")
    numbers = (getattr(report, name) for name in names)
    return [kernel_names().index(report.kernel.decode()), report.arithmetic, *numbers]


def score(head: Head, request: ScoreRequest, *, arithmetic: str, running: Running, given: bool = False) -> list[int]:
    """isologit_score, or isologit_score_given."""
    options, report = _score_options(arithmetic, running), ScoreReport()
    function = _library.isologit_score_given if given else _library.isologit_score
    Interruptible(options, running).call(function, head, request, options, report)
    return _counts_of(report)


def sample(head: Head, request: SampleRequest, *, arithmetic: str, running: Running, given: bool = False) -> list[int]:
    """isologit_sample, or isologit_sample_given."""
    options, report = _score_options(arithmetic, running), SampleReport()
    function = _library.isologit_sample_given if given else _library.isologit_sample
    Interruptible(options, running).call(function, head, request, options, report)
    return _counts_of(report)


class Partial:
    """isologit_partial. The caller keeps alive what the request points to."""

    def __init__(self, whole: Head, request: ScoreRequest, *, arithmetic: str, running: Running) -> None:
        options = _score_options(arithmetic, running)
        self._calls = Interruptible(options, running)
        self._handle = c_void_p()
        # Before there is one: a signal's handler may raise as soon as there is.
        end_with(self, _library.isologit_partial_end, self._handle)
        call(_library.isologit_partial_begin, whole, request, options, self._handle)

    def absorb(self, shard: Head, first_id: int) -> None:
        self._calls.call(_library.isologit_partial_absorb, self._handle, shard, first_id)

    def state(self) -> bytes:
        size = c_size_t()
        call(_library.isologit_partial_state, self._handle, None, 0, size)
        state = ctypes.create_string_buffer(size.value)
        call(_library.isologit_partial_state, self._handle, state, size, size)
        return state.raw

    def merge(self, state: bytes) -> None:
        call(_library.isologit_partial_merge, self._handle, state, len(state))

    def finish_round(self) -> bool:
        finished = c_int32()
        self._calls.call(_library.isologit_partial_finish_round, self._handle, finished)
        return bool(finished.value)

    def counts(self) -> list[int]:
        report = ScoreReport()
        call(_library.isologit_partial_report, self._handle, report)
        return _counts_of(report)


def backward(head: Head, request: BackwardRequest, *, arithmetic: str, gradients: str, running: Running) -> None:
    """isologit_backward, of results whose logits were made with `arithmetic` by `kernel`."""
    options = BackwardOptions(
        has_arithmetic=1,
        arithmetic=arithmetic_code(gradients, "gradients"),
        logits_arithmetic=arithmetic_code(arithmetic),
        **running.members(),
    )
    Interruptible(options, running).call(_library.isologit_backward, head, request, options, None)


def score_logits(request: LogitsRequest, running: Running) -> None:
    """isologit_score_logits."""
    options = ScoreOptions(**running.members())
    Interruptible(options, running).call(_library.isologit_score_logits, request, options, None)


def sample_logits(request: LogitsSampleRequest, running: Running) -> list[int]:
    """isologit_sample_logits."""
    options, report = ScoreOptions(**running.members()), SampleReport()
    Interruptible(options, running).call(_library.isologit_sample_logits, request, options, report)
    return _counts_of(report)


def backward_logits(request: LogitsBackwardRequest, running: Running) -> None:
    """isologit_backward_logits."""
    options = BackwardOptions(**running.members())
    Interruptible(options, running).call(_library.isologit_backward_logits, request, options, None)


def reduce_losses(logprobs: int, count: int, token_ids: int, ignore_index: int, mean: bool) -> float:
    """isologit_mean_loss or isologit_sum_loss, of `count` f32 logprobs and as many ids."""
    loss = c_float()
    function = _library.isologit_mean_loss if mean else _library.isologit_sum_loss
    call(function, logprobs, count, token_ids, ignore_index, loss)
    return loss.value


def mean_loss_upstream(g: float, n: int) -> float:
    """isologit_mean_loss_upstream."""
    upstream = c_float()
    call(_library.isologit_mean_loss_upstream, g, n, upstream)
    return upstream.value
