#!/usr/bin/env python3
"""What inactive rows cost: a call of N rows of which m are active, beside a call that holds those m alone."""

import argparse
import os
import statistics
import time

import numpy as np

import isologit


def bf16(random: np.random.Generator, rows: int, cols: int, deviation: float) -> np.ndarray:
    values = random.standard_normal((rows, cols), np.float32) * np.float32(deviation)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


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

    random = np.random.default_rng(1)
    weight = bf16(random, arguments.vocab, arguments.size, 0.02)
    hidden = bf16(random, arguments.rows, arguments.size, 1.0)
    ids = random.integers(arguments.vocab, size=arguments.rows)
    outputs = ("logprobs", "lse", "entropy", "argmax", "rank")

    def seconds(rows: np.ndarray, token_ids: np.ndarray) -> float:
        start = time.perf_counter()
        isologit.score(rows, weight, token_ids, outputs=outputs, dtype="bf16", threads=arguments.threads)
        return time.perf_counter() - start

    whole = seconds(hidden, ids) if arguments.all else None
    for share in arguments.active:
        active = np.sort(random.choice(arguments.rows, int(arguments.rows * share), replace=False))
        masked = np.full_like(ids, -100)
        masked[active] = ids[active]
        pairs = [(seconds(hidden, masked), seconds(hidden[active], ids[active])) for _ in range(arguments.repeats)]
        among, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
        of_whole = "" if whole is None else f", {among / whole:.3f} of all rows active"
        print(
            f"{len(active)} active of {arguments.rows}: {among:.3f} s, alone {alone:.3f} s, ratio {among / alone:.3f}"
            + of_whole
        )


if __name__ == "__main__":
    main()
