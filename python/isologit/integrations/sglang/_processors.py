"""The processors that SGLang bound this process's threads to.

It binds OpenMP's threads, the calling one among them, each to one processor. isologit is told of all of them.
"""

import os
import re
from typing import Any

_bound: frozenset[int] = frozenset()


def keep_binding(binding: str, *args: Any, **kwargs: Any) -> None:
    """After SGLang has chosen them: "0-3,8", say."""
    global _bound
    ranges = re.findall(r"(\d+)(?:-(\d+))?", binding)
    _bound = frozenset(number for low, high in ranges for number in range(int(low), int(high or low) + 1))


def bound() -> frozenset[int]:
    """Those of the calling thread, where SGLang has bound none."""
    return _bound or frozenset(os.sched_getaffinity(0))
