"""isologit.h by ctypes: the structures, and one function for each of its calls.

ctypes releases the GIL for the time of a call. Pointers go in as integers; the caller keeps alive what they point to.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Generator
from ctypes import POINTER, Structure, c_char, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

BF16, F16, F32 = 0, 1, 2
_ARITHMETICS = ("exact", "fast")
SUMMARY_DOUBLES = 5  # of an isologit_row_summary

_SCALE_MULTIPLY, _SCALE_DIVIDE = 1, 2

_ERRORS: dict[int, type[Exception]] = {
    1: ValueError,
    2: NotImplementedError,
    3: FileNotFoundError,
    4: OSError,
    5: MemoryError,
}


class Matrix(Structure):
    _fields_ = [("data", c_void_p), ("rows", c_int64), ("cols", c_int64), ("row_stride", c_int64), ("dtype", c_int32)]


class Vector(Structure):
    _fields_ = [("data", c_void_p), ("size", c_int64), ("dtype", c_int32)]


class _Sized(Structure):
    """A structure that begins with its size."""

    def __init__(self, **members: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **members)


class Head(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("weight", Matrix),
        ("bias", Vector),
        ("vocab_size", c_int64),
        ("has_softcap", c_int32),
        ("softcap", c_float),
        ("scale_kind", c_int32),
        ("scale", c_float),
    ]


class IdLists(Structure):
    _fields_ = [("offsets", c_void_p), ("ids", c_void_p)]


class ScoreRequest(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("hidden", Matrix),
        ("token_ids", c_void_p),
        ("temperatures", c_void_p),
        ("temperature_count", c_int64),
        ("has_ignore_index", c_int32),
        ("ignore_index", c_int64),
        ("logprobs", c_void_p),
        ("lse", c_void_p),
        ("entropy", c_void_p),
        ("argmax", c_void_p),
        ("rank", c_void_p),
        ("raw_logprobs", c_void_p),
        ("sum_p2", c_void_p),
        ("log_kept", c_void_p),
        ("row_mask", c_void_p),
        ("row_list", c_void_p),
        ("row_count", c_int64),
        ("has_range", c_int32),
        ("first_id", c_int64),
        ("last_id", c_int64),
        ("kept", IdLists),
        ("banned", IdLists),
        ("ids_per_row", c_int64),
        ("ids", c_void_p),
        ("ids_logprobs", c_void_p),
        ("top_k", c_int64),
        ("top_k_ids", c_void_p),
        ("top_k_logprobs", c_void_p),
        ("logits", c_void_p),
        ("logits_dtype", c_int32),
        ("logits_row_stride", c_int64),
        ("logits_first_id", c_int64),
        ("logits_count", c_int64),
        ("summaries", c_void_p),
    ]


class _ScoreOptions(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("threads", c_int32),
        ("kernel", c_char_p),
        ("progress", c_void_p),
        ("user", c_void_p),
        ("arithmetic", c_int32),
    ]


class _ScoreReport(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kernel", c_char * 32),
        ("threads", c_int32),
        ("rounds", c_int32),
        ("rows", c_int64),
        ("logit_fallbacks", c_int64),
        ("undecided_rows", c_int64),
        ("arithmetic", c_int32),
    ]


class Gradient(Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32), ("accumulate", c_int32)]


class BackwardRequest(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("hidden", Matrix),
        ("token_ids", c_void_p),
        ("ids_per_row", c_int64),
        ("temperatures", c_void_p),
        ("temperature_count", c_int64),
        ("has_ignore_index", c_int32),
        ("ignore_index", c_int64),
        ("has_range", c_int32),
        ("first_id", c_int64),
        ("last_id", c_int64),
        ("kept", IdLists),
        ("banned", IdLists),
        ("d_logprobs", c_void_p),
        ("d_lse", c_void_p),
        ("d_entropy", c_void_p),
        ("d_logits", c_void_p),
        ("d_logits_row_stride", c_int64),
        ("dhidden", Gradient),
        ("dweight", Gradient),
        ("dbias", Gradient),
        ("summaries", c_void_p),
    ]


class _BackwardOptions(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("has_arithmetic", c_int32),
        ("arithmetic", c_int32),
        ("logits_arithmetic", c_int32),
        ("threads", c_int32),
        ("kernel", c_char_p),
        ("progress", c_void_p),
        ("user", c_void_p),
    ]


class _BackwardReport(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kernel", c_char * 32),
        ("arithmetic", c_int32),
        ("threads", c_int32),
        ("rows", c_int64),
        ("logit_fallbacks", c_int64),
        ("derivative_fallbacks", c_int64),
        ("sum_fallbacks", c_int64),
    ]


class SampleRequest(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("hidden", Matrix),
        ("temperatures", c_void_p),
        ("temperature_count", c_int64),
        ("seeds", c_void_p),
        ("seed_count", c_int64),
        ("sequence_ids", c_void_p),
        ("sequence_id_count", c_int64),
        ("positions", c_void_p),
        ("position_count", c_int64),
        ("min_p", c_void_p),
        ("min_p_count", c_int64),
        ("top_k", c_void_p),
        ("top_k_count", c_int64),
        ("top_p", c_void_p),
        ("top_p_count", c_int64),
        ("has_range", c_int32),
        ("first_id", c_int64),
        ("last_id", c_int64),
        ("kept", IdLists),
        ("banned", IdLists),
        ("row_mask", c_void_p),
        ("row_list", c_void_p),
        ("row_count", c_int64),
        ("ids", c_void_p),
        ("logprobs", c_void_p),
        ("cut_logprobs", c_void_p),
        ("log_kept_cut", c_void_p),
    ]


class _SampleReport(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kernel", c_char * 32),
        ("threads", c_int32),
        ("rounds", c_int32),
        ("rows", c_int64),
        ("logit_fallbacks", c_int64),
        ("further_rows", c_int64),
        ("undecided_rows", c_int64),
        ("second_words", c_int64),
        ("exact_draws", c_int64),
        ("arithmetic", c_int32),
    ]


class _KernelInfo(_Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char * 32),
        ("instruction_set", c_char * 64),
        ("arithmetic", c_char * 16),
        ("why_not", c_char * 128),
        ("dtypes", c_uint32),
        ("runnable", c_int32),
        ("chosen", c_int32),
    ]


class Report(NamedTuple):
    """What a call did. No count affects a bit of the results."""

    kernel: str
    threads: int
    rounds: int
    rows: int
    logit_fallbacks: int
    undecided_rows: int
    arithmetic: str


class Kernel(NamedTuple):
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
    library.isologit_version.restype = c_char_p
    library.isologit_version.argtypes = []
    for name, request, options, report in (
        ("score", ScoreRequest, _ScoreOptions, _ScoreReport),
        ("backward", BackwardRequest, _BackwardOptions, _BackwardReport),
        ("sample", SampleRequest, _ScoreOptions, _SampleReport),
    ):
        function = getattr(library, f"isologit_{name}")
        function.restype = c_int
        function.argtypes = [
            POINTER(Head),
            POINTER(request),
            POINTER(options),
            POINTER(report),
            c_char_p,
            c_size_t,
        ]
    for function in (library.isologit_mean_loss, library.isologit_sum_loss):
        function.restype = c_int
        function.argtypes = [c_void_p, c_int64, c_void_p, c_int64, POINTER(c_float), c_char_p, c_size_t]
    library.isologit_mean_loss_upstream.restype = c_int
    library.isologit_mean_loss_upstream.argtypes = [c_float, c_int64, POINTER(c_float), c_char_p, c_size_t]
    library.isologit_kernel_count.restype = c_int
    library.isologit_kernel_count.argtypes = []
    library.isologit_kernel.restype = c_int
    library.isologit_kernel.argtypes = [c_int, POINTER(_KernelInfo)]
    return library


_library = _load()


def version() -> str:
    return _library.isologit_version().decode()


def kernels() -> list[Kernel]:
    """The kernels that are built in, best first."""
    found = []
    for index in range(_library.isologit_kernel_count()):
        info = _KernelInfo()
        _check(_library.isologit_kernel(index, info), b"no such kernel")
        found.append(
            Kernel(
                info.name.decode(),
                info.instruction_set.decode(),
                info.arithmetic.decode(),
                info.why_not.decode(),
                bool(info.runnable),
                bool(info.chosen),
            )
        )
    return found


def _check(status: int, message: bytes) -> None:
    if status != 0:
        text = message.decode(errors="replace")
        raise _ERRORS.get(status, RuntimeError)(text or f"isologit returned status {status}")


def make_head(
    weight: Matrix,
    bias: Vector | None,
    *,
    vocab_size: int | None,
    softcap: float | None,
    scale: float | None,
    divide: float | None,
) -> Head:
    if scale is not None and divide is not None:
        raise ValueError(f"scale is {scale} and divide is {divide}; expected at most one of them")
    head = Head(weight=weight, vocab_size=weight.rows if vocab_size is None else vocab_size)
    if bias is not None:
        head.bias = bias
    if softcap is not None:
        head.has_softcap, head.softcap = 1, softcap
    if scale is not None:
        head.scale_kind, head.scale = _SCALE_MULTIPLY, scale
    if divide is not None:
        head.scale_kind, head.scale = _SCALE_DIVIDE, divide
    return head


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
            yield answer
        except GeneratorExit:
            return
        except BaseException as error:  # handed on by _watched()
            raised.append(error)
            answer = 0


def _watched(function: Any, head: Head, request: _Sized, options: Any, report: _Sized) -> None:
    """Calls the function. A signal's handler that raises, such as that of Ctrl-C, stops it between tiles."""
    raised: list[BaseException] = []
    if threading.current_thread() is threading.main_thread():  # no other runs handlers
        answers = _run_signal_handlers(raised)
        next(answers)
        progress = _PROGRESS(answers.send)
        options.progress = ctypes.cast(progress, c_void_p)
    message = ctypes.create_string_buffer(1024)
    status = function(head, request, options, report, message, len(message))
    if raised:
        raise raised[0]
    _check(status, message.value)


def arithmetic_code(arithmetic: str, name: str = "arithmetic") -> int:
    if arithmetic not in _ARITHMETICS:
        raise ValueError(f"{name} is {arithmetic!r}; expected 'exact' or 'fast'")
    return _ARITHMETICS.index(arithmetic)


def score(
    head: Head, request: ScoreRequest, *, arithmetic: str = "exact", threads: int = 0, kernel: str = ""
) -> Report:
    """isologit_score."""
    options = _ScoreOptions(threads=threads, kernel=kernel.encode(), arithmetic=arithmetic_code(arithmetic))
    report = _ScoreReport()
    _watched(_library.isologit_score, head, request, options, report)
    return Report(
        report.kernel.decode(),
        report.threads,
        report.rounds,
        report.rows,
        report.logit_fallbacks,
        report.undecided_rows,
        _ARITHMETICS[report.arithmetic],
    )


def backward(
    head: Head, request: BackwardRequest, *, arithmetic: str, gradients: str, threads: int = 0, kernel: str = ""
) -> None:
    """isologit_backward, of results whose logits were made with `arithmetic`."""
    options = _BackwardOptions(
        has_arithmetic=1,
        arithmetic=arithmetic_code(gradients, "gradients"),
        logits_arithmetic=arithmetic_code(arithmetic),
        threads=threads,
        kernel=kernel.encode(),
    )
    _watched(_library.isologit_backward, head, request, options, _BackwardReport())


def sample(
    head: Head, request: SampleRequest, *, arithmetic: str = "exact", threads: int = 0, kernel: str = ""
) -> None:
    """isologit_sample."""
    options = _ScoreOptions(threads=threads, kernel=kernel.encode(), arithmetic=arithmetic_code(arithmetic))
    _watched(_library.isologit_sample, head, request, options, _SampleReport())


def reduce_losses(logprobs: int, count: int, token_ids: int, ignore_index: int, mean: bool) -> float:
    """isologit_mean_loss or isologit_sum_loss, of `count` f32 logprobs and as many ids."""
    function = _library.isologit_mean_loss if mean else _library.isologit_sum_loss
    loss = c_float()
    message = ctypes.create_string_buffer(1024)
    _check(function(logprobs, count, token_ids, ignore_index, loss, message, len(message)), message.value)
    return loss.value


def mean_loss_upstream(g: float, n: int) -> float:
    """isologit_mean_loss_upstream."""
    upstream = c_float()
    message = ctypes.create_string_buffer(1024)
    _check(_library.isologit_mean_loss_upstream(g, n, upstream, message, len(message)), message.value)
    return upstream.value
