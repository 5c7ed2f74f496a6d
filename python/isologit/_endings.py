"""Handles of the library that end when nothing refers to their owners any more."""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from ctypes import c_void_p


class _Ending(weakref.ref):
    """Of an owner of a handle; `end` calls what ends the handle when it is first asked for an element; `then` is a
    reference to the owner as well, whose callback has that done."""

    __slots__ = ("end", "then")


_endings: set[_Ending] = set()
_due: deque[_Ending] = deque()  # whose owners are gone


def _end_what_is_due(_: object = None) -> None:
    """May be stopped anywhere, by a signal's handler that raises, and called from any thread: what is left, or done
    again, changes nothing."""
    for ending in tuple(_due):
        next(ending.end, None)
        with contextlib.suppress(ValueError):
            _due.remove(ending)
        _endings.discard(ending)


def end_with(owner: object, end: Callable[[c_void_p], None], handle: c_void_p) -> None:
    """end(handle) when nothing refers to the owner any more. A signal's handler may raise in any callback, which then
    does not go on; but the appending is no Python, in which handlers run, and the next callback ends the handle.
    (weakref.finalize would keep what it knows of an owner for ever, when its callback is stopped.)"""
    then = weakref.ref(owner, _end_what_is_due)  # comes after what is set up later
    ending = _Ending(owner, _due.append)
    ending.then = then
    ending.end = map(end, iter([handle]))
    _endings.add(ending)
