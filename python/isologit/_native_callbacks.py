"""What the library calls back while a call runs: whether to go on, and for exchanges with other parties."""

import ctypes
from collections.abc import Callable, Generator, Sequence
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from typing import Any, NamedTuple

from isologit._native_structures import Peers

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


def progress(raised: list[BaseException]) -> Any:
    """What the library calls as progress, from the main thread; what a signal's handler raises meanwhile goes there."""
    answers = _run_signal_handlers(raised)
    next(answers)
    return _PROGRESS(answers.send)


_GATHER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t))
_SCATTER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_size_t), POINTER(c_void_p), POINTER(c_size_t))


class OwnRows(NamedTuple):
    """Of backward, where each party has rows [first_row, last_row) of dhidden of its own; `scatter` takes bytes for
    each party, by their numbers, and returns those that all have for this one."""

    party: int
    first_row: int
    last_row: int
    scatter: Callable[[list[bytes]], Sequence[bytes]]


class PeersCalls:
    """isologit_peers: `gather` takes bytes and returns those of all parties. What it raises, the call raises."""

    def __init__(
        self,
        first_id: int,
        vocab_size: int,
        count: int,
        gather: Callable[[bytes], Sequence[bytes]],
        own_rows: OwnRows | None = None,
    ) -> None:
        self._gather, self.own_rows = gather, own_rows
        self._all = b""
        self._functions = [_GATHER(self._call_gather)]
        self.native = Peers(first_id=first_id, vocab_size=vocab_size, count=count, gather=pointer(self._functions[0]))
        if own_rows is not None:
            self._functions.append(_SCATTER(self._call_scatter))
            self.native.scatter = pointer(self._functions[1])
            self.native.party, self.native.first_row, self.native.last_row, _ = own_rows
        self.raised: list[BaseException] = []

    def _call_gather(self, user: int, own: int, size: int, to_all: Any, sizes: Any) -> int:
        return self._answer(lambda: self._gather(ctypes.string_at(own, size)), to_all, sizes)

    def _call_scatter(self, user: int, own: int, own_sizes: Any, to_all: Any, sizes: Any) -> int:
        def scatter() -> Sequence[bytes]:
            assert self.own_rows is not None
            parts, at = [], own
            for party in range(self.native.count):
                parts.append(ctypes.string_at(at, own_sizes[party]))
                at += own_sizes[party]
            return self.own_rows.scatter(parts)

        return self._answer(scatter, to_all, sizes)

    def _answer(self, exchange: Callable[[], Sequence[bytes]], to_all: Any, sizes: Any) -> int:
        try:
            states = exchange()
            self._all = b"".join(states)
            to_all[0] = ctypes.cast(c_char_p(self._all), c_void_p)
            for i, state in enumerate(states):
                sizes[i] = len(state)
        except BaseException as error:  # handed on by Interruptible
            self.raised.append(error)
            return 0
        return 1


def pointer(function: Any) -> c_void_p:
    return ctypes.cast(function, c_void_p)
