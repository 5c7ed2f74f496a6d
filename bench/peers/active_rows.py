#!/usr/bin/env python3
"""What inactive rows cost: a call of N rows of which m are active, beside a call that holds those m alone."""

import argparse
import os
import statistics
import time

import numpy as np

import isologit
from tables import active_rows_text


def bf16(random: np.random.Generator, rows: int, cols: int, deviation: float) -> np.ndarray:
    values = random.standard_normal((rows, cols), np.float32) * np.float32(deviation)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def measure(vocab: int, size: int, rows: int, active: list[float], threads: int, repeats: int, whole: bool) -> dict:
    """Median seconds of a call of `rows` rows for each active share, of the active alone, and of all if `whole`."""
    random = np.random.default_rng(1)
    weight = bf16(random, vocab, size, 0.02)
    hidden = bf16(random, rows, size, 1.0)
    ids = random.integers(vocab, size=rows)
    outputs = ("logprobs", "lse", "entropy", "argmax", "rank")

    def seconds(some: np.ndarray, token_ids: np.ndarray) -> float:
        start = time.perf_counter()
        isologit.score(some, weight, token_ids, outputs=outputs, dtype="bf16", threads=threads)
        return time.perf_counter() - start

    result = {"shape": f"{vocab},{size}", "rows": rows, "threads": threads, "results": []}
    if whole:
        result["all_seconds"] = seconds(hidden, ids)
    for share in active:
        chosen = np.sort(random.choice(rows, int(rows * share), replace=False))
        masked = np.full_like(ids, -100)
        masked[chosen] = ids[chosen]
        pairs = [(seconds(hidden, masked), seconds(hidden[chosen], ids[chosen])) for _ in range(repeats)]
        among, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
        result["results"].append({"active": len(chosen), "seconds": among, "alone_seconds": alone})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--active", default="0.1,0.01", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--all", action="store_true", help="time all rows as well")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    print(active_rows_text(measure(arguments.vocab, arguments.size, arguments.rows, arguments.active,
                                   arguments.threads, arguments.repeats, arguments.all)))  # fmt: skip


if __name__ == "__main__":
    main()
