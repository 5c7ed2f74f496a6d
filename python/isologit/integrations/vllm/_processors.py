"""The processors that the engine bound its threads to.

vLLM binds a worker's OpenMP threads through the environment, and OpenMP binds the thread that calls it to one of those
processors. isologit is told of all of them.
"""

import os
import re

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
