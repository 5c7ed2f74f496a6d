"""The processors that the engine bound its threads to.

vLLM binds a worker's OpenMP threads through the environment, and OpenMP binds the thread that calls it to one of those
processors. A library that looks at the calling thread's mask then finds one processor, and its threads inherit it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# What vLLM sets, one of them, for the OpenMP runtime that is loaded.
_VARIABLES = {
    "KMP_AFFINITY": r"proclist=\[([\d,]+)\]",
    "GOMP_CPU_AFFINITY": r"^([\d ]+)$",
    "OMP_PLACES": r"^\{([\d,]+)\}$",
}


def bound() -> frozenset[int]:
    """Of the engine's binding where it left one that can be read, else of the calling thread."""
    for name, pattern in _VARIABLES.items():
        found = re.search(pattern, os.environ.get(name, ""))
        if found:
            return frozenset(int(number) for number in re.findall(r"\d+", found.group(1)))
    return frozenset(os.sched_getaffinity(0))


@contextmanager
def all_of(processors: frozenset[int]) -> Iterator[None]:
    """The calling thread, and the threads that it creates meanwhile, may use these processors."""
    former = os.sched_getaffinity(0)
    if former == processors:
        yield
        return
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)
