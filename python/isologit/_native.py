"""isologit.h by ctypes: the structures, and one function for each of its calls.

ctypes releases the GIL for the time of a call. Pointers go in as integers; the caller keeps alive what they point to.
"""

import ctypes
import functools
import importlib.util
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)
from pathlib import Path
from typing import Any, NamedTuple

BF16, F16, F32 = 0, 1, 2
F64, F8_E4M3, F8_E5M2 = 1, 2, 3  # encodings
F8_REAL, F8_BF16 = 0, 1
SCALE_MULTIPLY, SCALE_DIVIDE = 1, 2
_TRANSFORM_ORDERS = ("softcap_first", "scale_first")
_ARITHMETICS = ("exact", "fast")
SUMMARY_DOUBLES = 5  # of an isologit_row_summary
TORCH = "torch"  # the kernel that is not in the library: isologit.torch_backend

_ERRORS: dict[int, type[Exception]] = {
    1: ValueError,
    2: NotImplementedError,
    3: FileNotFoundError,
    4: OSError,
    5: MemoryError,
}


def pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_void_p) for name in names]


def _counted(*names: str) -> list[tuple[str, Any]]:
    """Of each name a pointer, and how many elements it has: "seeds" and "seed_count"."""
    return [member for name in names for member in ((name, c_void_p), (f"{name.removesuffix('s')}_count", c_int64))]


class Matrix(Structure):
    _fields_ = [("data", c_void_p), ("rows", c_int64), ("cols", c_int64), ("row_stride", c_int64), ("dtype", c_int32)]


class Vector(Structure):
    _fields_ = [("data", c_void_p), ("size", c_int64), ("dtype", c_int32)]


class Lora(Structure):
    _fields_ = [("a", Matrix), ("b", Matrix), ("scale", c_double)]


class Gradient(Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32), ("accumulate", c_int32)]


class IdLists(Structure):
    _fields_ = pointers("offsets", "ids")


# Runs of members that several structures share.
SIZE = [("struct_size", c_size_t)]
_TEMPERATURES = _counted("temperatures")
_IGNORE_INDEX = [("has_ignore_index", c_int32), ("ignore_index", c_int64)]
_ROWS = [*pointers("row_mask", "row_list"), ("row_count", c_int64)]
_SUPPORT = [
    ("has_range", c_int32),
    ("first_id", c_int64),
    ("last_id", c_int64),
    ("kept", IdLists),
    ("banned", IdLists),
]
_MASK = [("mask", c_void_p), ("mask_row_stride", c_int64)]
THREADS_AND_KERNEL = [("threads", c_int32), ("kernel", c_char_p)]
PROGRESS_AND_USER = pointers("progress", "user")
PROCESSORS = [("processors", POINTER(c_int32)), ("processor_count", c_int64)]
KERNEL_NAME = [("kernel", c_char * 32)]
_THREADS_TO_FALLBACKS = [("threads", c_int32), ("rounds", c_int32), ("rows", c_int64), ("logit_fallbacks", c_int64)]


class Sized(Structure):
    """A structure that begins with its size."""

    def __init__(self, **members: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **members)


class Head(Sized):
    _fields_ = [
        *SIZE,
        ("weight", Matrix),
        ("bias", Vector),
        ("vocab_size", c_int64),
        ("has_softcap", c_int32),
        ("softcap", c_float),
        ("scale_kind", c_int32),
        ("scale", c_float),
        ("transform_order", c_int32),
        ("encoded", c_void_p),
        ("encoding", c_int32),
        ("f8_product", c_int32),
        ("f8_scales", Matrix),
        ("f8_block_rows", c_int64),
        ("f8_block_cols", c_int64),
        ("f8_first_row", c_int64),
        ("lora", Lora),
    ]


class ScoreRequest(Sized):
    _fields_ = [
        *SIZE,
        ("hidden", Matrix),
        ("token_ids", c_void_p),
        *_TEMPERATURES,
        *_IGNORE_INDEX,
        *pointers("logprobs", "lse", "entropy", "argmax", "rank", "raw_logprobs", "sum_p2", "log_kept"),
        *_ROWS,
        *_SUPPORT,
        ("ids_per_row", c_int64),
        *pointers("ids", "ids_logprobs"),
        ("top_k", c_int64),
        *pointers("top_k_ids", "top_k_logprobs"),
        ("logits", c_void_p),
        ("logits_dtype", c_int32),
        ("logits_row_stride", c_int64),
        ("logits_first_id", c_int64),
        ("logits_count", c_int64),
        *pointers("summaries", "mean_logits"),
        *_MASK,
    ]


class BackwardRequest(Sized):
    _fields_ = [
        *SIZE,
        ("hidden", Matrix),
        ("token_ids", c_void_p),
        ("ids_per_row", c_int64),
        *_TEMPERATURES,
        *_IGNORE_INDEX,
        *_SUPPORT,
        *pointers("d_logprobs", "d_lse", "d_entropy", "d_logits"),
        ("d_logits_row_stride", c_int64),
        ("dhidden", Gradient),
        ("dweight", Gradient),
        ("dbias", Gradient),
        *pointers("summaries", "d_mean_logits"),
        *_MASK,
    ]


class SampleRequest(Sized):
    _fields_ = [
        *SIZE,
        ("hidden", Matrix),
        *_counted("temperatures", "seeds", "sequence_ids", "positions", "min_p", "top_k", "top_p"),
        *_SUPPORT,
        *_ROWS,
        *pointers("ids", "logprobs", "cut_logprobs", "log_kept_cut"),
        *_MASK,
    ]


_LOGITS_AND_IDS = [
    *SIZE,
    ("logits", Matrix),
    *_TEMPERATURES,
    ("token_ids", c_void_p),
    ("ids_per_row", c_int64),
    *_IGNORE_INDEX,
]


class LogitsRequest(Sized):
    _fields_ = [
        *_LOGITS_AND_IDS,
        *pointers("logprobs", "lse", "entropy", "log_softmax"),
        ("log_softmax_row_stride", c_int64),
    ]


class LogitsSampleRequest(Sized):
    _fields_ = [
        *SIZE,
        ("logits", Matrix),
        *_counted("temperatures", "seeds", "sequence_ids", "positions", "min_p", "top_k", "top_p"),
        *pointers("ids", "logprobs", "cut_logprobs", "log_kept_cut", "cut_mask"),
    ]


class LogitsBackwardRequest(Sized):
    _fields_ = [
        *_LOGITS_AND_IDS,
        *pointers("d_logprobs", "d_lse", "d_entropy", "d_log_softmax"),
        ("d_log_softmax_row_stride", c_int64),
        ("dlogits", c_void_p),
        ("dlogits_row_stride", c_int64),
    ]


class Peers(Sized):
    _fields_ = [
        *SIZE,
        ("first_id", c_int64),
        ("vocab_size", c_int64),
        ("count", c_int32),
        *pointers("gather", "user"),
    ]


_PEERS = [("peers", POINTER(Peers))]


class _ScoreOptions(Sized):
    _fields_ = [*SIZE, *THREADS_AND_KERNEL, *PROGRESS_AND_USER, ("arithmetic", c_int32), *PROCESSORS, *_PEERS]


class _BackwardOptions(Sized):
    _fields_ = [
        *SIZE,
        ("has_arithmetic", c_int32),
        ("arithmetic", c_int32),
        ("logits_arithmetic", c_int32),
        *THREADS_AND_KERNEL,
        *PROGRESS_AND_USER,
        *PROCESSORS,
        *_PEERS,
    ]


class _ScoreReport(Sized):
    _fields_ = [
        *SIZE,
        *KERNEL_NAME,
        *_THREADS_TO_FALLBACKS,
        ("undecided_rows", c_int64),
        ("arithmetic", c_int32),
        ("processors", c_int32),
    ]


class _SampleReport(Sized):
    _fields_ = [
        *SIZE,
        *KERNEL_NAME,
        *_THREADS_TO_FALLBACKS,
        ("further_rows", c_int64),
        ("undecided_rows", c_int64),
        ("second_words", c_int64),
        ("exact_draws", c_int64),
        ("arithmetic", c_int32),
        ("processors", c_int32),
    ]


class _KernelInfo(Sized):
    _fields_ = [
        *SIZE,
        ("name", c_char * 32),
        ("instruction_set", c_char * 64),
        ("arithmetic", c_char * 16),
        ("why_not", c_char * 128),
        ("dtypes", c_uint32),
        ("runnable", c_int32),
        ("chosen", c_int32),
    ]


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
        ("kernel", c_int, [c_int, POINTER(_KernelInfo)]),
        ("score", c_int, [*map(POINTER, (Head, ScoreRequest, _ScoreOptions, _ScoreReport))] + message),
        ("backward", c_int, [*map(POINTER, (Head, BackwardRequest, _BackwardOptions)), c_void_p] + message),
        ("sample", c_int, [*map(POINTER, (Head, SampleRequest, _ScoreOptions, _SampleReport))] + message),
        ("score_logits", c_int, [*map(POINTER, (LogitsRequest, _ScoreOptions)), c_void_p] + message),
        ("sample_logits", c_int, [*map(POINTER, (LogitsSampleRequest, _ScoreOptions, _SampleReport))] + message),
        ("backward_logits", c_int, [*map(POINTER, (LogitsBackwardRequest, _BackwardOptions)), c_void_p] + message),
        ("mean_loss", c_int, losses + message),
        ("sum_loss", c_int, losses + message),
        ("mean_loss_upstream", c_int, [c_float, c_int64, POINTER(c_float)] + message),
        ("partial_begin", c_int, [*map(POINTER, (Head, ScoreRequest, _ScoreOptions, c_void_p))] + message),
        ("partial_absorb", c_int, [c_void_p, POINTER(Head), c_int64] + message),
        ("partial_state", c_int, [c_void_p, c_void_p, c_size_t, POINTER(c_size_t)] + message),
        ("partial_merge", c_int, [c_void_p, c_char_p, c_size_t] + message),
        ("partial_finish_round", c_int, [c_void_p, POINTER(c_int32)] + message),
        ("partial_report", c_int, [c_void_p, POINTER(_ScoreReport)] + message),
        ("partial_end", None, [c_void_p]),
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


def version() -> str:
    """The version of the library, as "0.1.0"."""
    return _library.isologit_version().decode()


def kernels() -> list[Kernel]:
    """The kernels that are built in, best first; then "torch", for tensors on devices that these do not run on."""
    found = []
    for index in range(_library.isologit_kernel_count()):
        info = _KernelInfo()
        _check(_library.isologit_kernel(index, info), b"no such kernel")
        texts = (getattr(info, name).decode() for name in ("name", "instruction_set", "arithmetic", "why_not"))
        found.append(Kernel(*texts, bool(info.runnable), bool(info.chosen)))
    runnable = importlib.util.find_spec("torch") is not None
    why_not = "" if runnable else "PyTorch is not installed"
    return [*found, Kernel(TORCH, "any device of PyTorch", "exact", why_not, runnable, False)]


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


# The library calls progress(user, share). The second argument is not declared here, because a generator's send() takes
# one; the C calling conventions leave arguments to their caller.
_PROGRESS = ctypes.CFUNCTYPE(c_int, c_void_p)


def _run_signal_handlers(raised: list[BaseException]) -> Generator[int, None, None]:
    """Answers each send() with 1, or with 0 after a signal's handler has raised.

    Python runs the handlers of signals that came in meanwhile as soon as it runs any code on the main thread. A
    function could not catch what they raise, since they run before its first statement; a generator is resumed inside
    the try.
    """
    answer = 1
    while True:
        try:
            while True:  # handlers also run where a loop begins anew, so this one is inside as well
                yield answer
        except GeneratorExit:
            return
        except BaseException as error:  # handed on by Interruptible
            raised.append(error)
            answer = 0


_GATHER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t))


class PeersCalls:
    """isologit_peers: `gather` takes bytes and returns those of all parties. What it raises, the call raises."""

    def __init__(self, first_id: int, vocab_size: int, count: int, gather: Callable[[bytes], Sequence[bytes]]) -> None:
        self._gather = gather
        self._all = b""
        self._function = _GATHER(self._call)
        function = ctypes.cast(self._function, c_void_p)
        self.native = Peers(first_id=first_id, vocab_size=vocab_size, count=count, gather=function)
        self.raised: list[BaseException] = []

    def _call(self, user: int, own: int, size: int, to_all: Any, sizes: Any) -> int:
        try:
            states = self._gather(ctypes.string_at(own, size))
            self._all = b"".join(states)
            to_all[0] = ctypes.cast(c_char_p(self._all), c_void_p)
            for i, state in enumerate(states):
                sizes[i] = len(state)
        except BaseException as error:  # handed on by Interruptible
            self.raised.append(error)
            return 0
        return 1


class Interruptible:
    """Calls functions that a signal's handler that raises, such as that of Ctrl-C, stops between tiles."""

    def __init__(self, options: _ScoreOptions | _BackwardOptions, peers: PeersCalls | None = None) -> None:
        self._raised: list[BaseException] = [] if peers is None else peers.raised
        if threading.current_thread() is threading.main_thread():  # no other runs handlers
            answers = _run_signal_handlers(self._raised)
            next(answers)
            self._progress = _PROGRESS(answers.send)
            options.progress = ctypes.cast(self._progress, c_void_p)

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


def _score_options(arithmetic: str, running: Running) -> _ScoreOptions:
    return _ScoreOptions(arithmetic=arithmetic_code(arithmetic), **running.members())


def _counts_of(report: _ScoreReport | _SampleReport) -> list[int]:
    """What Report.of reads."""
    names = ("threads", "rounds", "rows", "logit_fallbacks", "undecided_rows", "processors")
    numbers = (getattr(report, name) for name in names)
    return [kernel_names().index(report.kernel.decode()), report.arithmetic, *numbers]


def score(head: Head, request: ScoreRequest, *, arithmetic: str, running: Running) -> list[int]:
    """isologit_score."""
    options, report = _score_options(arithmetic, running), _ScoreReport()
    Interruptible(options, running.peers).call(_library.isologit_score, head, request, options, report)
    return _counts_of(report)


def sample(head: Head, request: SampleRequest, *, arithmetic: str, running: Running) -> list[int]:
    """isologit_sample."""
    options, report = _score_options(arithmetic, running), _SampleReport()
    Interruptible(options, running.peers).call(_library.isologit_sample, head, request, options, report)
    return _counts_of(report)


class Partial:
    """isologit_partial. The caller keeps alive what the request points to."""

    def __init__(self, whole: Head, request: ScoreRequest, *, arithmetic: str, running: Running) -> None:
        options = _score_options(arithmetic, running)
        self._calls = Interruptible(options)
        self._handle = c_void_p()
        # Before there is one: a signal's handler may raise as soon as there is.
        weakref.finalize(self, _library.isologit_partial_end, self._handle)
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
        call(_library.isologit_partial_finish_round, self._handle, finished)
        return bool(finished.value)

    def counts(self) -> list[int]:
        report = _ScoreReport()
        call(_library.isologit_partial_report, self._handle, report)
        return _counts_of(report)


def backward(head: Head, request: BackwardRequest, *, arithmetic: str, gradients: str, running: Running) -> None:
    """isologit_backward, of results whose logits were made with `arithmetic` by `kernel`."""
    options = _BackwardOptions(
        has_arithmetic=1,
        arithmetic=arithmetic_code(gradients, "gradients"),
        logits_arithmetic=arithmetic_code(arithmetic),
        **running.members(),
    )
    Interruptible(options, running.peers).call(_library.isologit_backward, head, request, options, None)


def score_logits(request: LogitsRequest, running: Running) -> None:
    """isologit_score_logits."""
    options = _ScoreOptions(**running.members())
    Interruptible(options, running.peers).call(_library.isologit_score_logits, request, options, None)


def sample_logits(request: LogitsSampleRequest, running: Running) -> list[int]:
    """isologit_sample_logits."""
    options, report = _ScoreOptions(**running.members()), _SampleReport()
    Interruptible(options).call(_library.isologit_sample_logits, request, options, report)
    return _counts_of(report)


def backward_logits(request: LogitsBackwardRequest, running: Running) -> None:
    """isologit_backward_logits."""
    options = _BackwardOptions(**running.members())
    Interruptible(options, running.peers).call(_library.isologit_backward_logits, request, options, None)


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
