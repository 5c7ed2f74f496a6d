#!/usr/bin/env python3
"""A mean loss and its gradients beside torch: time, peak memory and error, in turn in one process.

Each call makes the loss of N rows from hidden and weight, both bf16 (f32 where said) and both wanting a gradient, and
then the gradients, in the type of what they are gradients of, or added to a buffer of f32 for the weight.
Peak memory is what the process held at most during the call beyond what it held before, the results included. The error
is that of the gradients against those of float64, as a share of their norm (--error; for small shapes only, it takes
[N, V] in float64).
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import isologit
from peers import LONG, SHAPES, Data, parse_shape, processor
from tables import GRADIENTS_PEER, gradients_table

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def isologit_loss(arithmetic: str, gradients: str, threads: int, buffer: Tensor | None = None) -> Loss:
    def loss(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        result = isologit.linear_logprobs(
            hidden,
            weight,
            ids,
            arithmetic=arithmetic,
            gradients=gradients,
            threads=threads,
            dweight_accumulate=buffer,
        )
        return -result.logprobs.mean()

    return loss


def materialising(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    logits = F.linear(hidden, weight).float()
    return -torch.log_softmax(logits, -1).gather(-1, ids[:, None]).mean()


def chunked(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, ids, options=torch.nn.LinearCrossEntropyOptions())


def status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


class Measured:
    def __init__(self, loss: Loss, weight: Tensor, buffer: Tensor | None = None) -> None:
        self.loss = loss
        self.weight = weight
        self.buffer = buffer  # that the weight's gradient is added to
        self.forward: list[float] = []
        self.both: list[float] = []
        self.peak_mib = 0.0

    def run(self, data: Data, rows: int, backward: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """Returns the gradients of hidden and weight."""
        hidden = data.hidden[:rows].to(self.weight.dtype, copy=True).requires_grad_()
        weight = self.weight.detach().requires_grad_()
        if self.buffer is not None:
            self.buffer.zero_()
        ids = data.ids[:rows]
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status_kib("VmRSS")
        start = time.perf_counter()
        value = self.loss(hidden, weight, ids)
        middle = time.perf_counter()
        if backward:
            value.backward()
        end = time.perf_counter()
        self.peak_mib = max(self.peak_mib, (status_kib("VmHWM") - before) / 1024)
        self.forward.append(middle - start)
        self.both.append(end - start)
        return hidden.grad, weight.grad if self.buffer is None else self.buffer


def float64_gradients(data: Data, rows: int) -> tuple[Tensor, Tensor]:
    hidden, weight = data.hidden[:rows].double(), data.weight.double()
    dz = torch.softmax(hidden @ weight.T, -1)
    dz[torch.arange(rows), data.ids[:rows]] -= 1
    dz /= rows
    return dz @ weight, dz.T @ hidden


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


def make_calls(data: Data, wide: Tensor, buffer: Tensor, threads: int) -> dict[str, tuple]:
    """What Measured is made of, by name."""
    ours = {
        "isologit exact": isologit_loss("exact", "fast", threads),
        "isologit fast": isologit_loss("fast", "fast", threads),
        "isologit exact, exact gradients": isologit_loss("exact", "exact", threads),
    }
    calls: dict[str, tuple] = {name: (loss, data.weight) for name, loss in ours.items()}
    into_buffer = isologit_loss("exact", "fast", threads, buffer)
    calls["isologit exact, dweight into f32"] = (into_buffer, data.weight, buffer)
    calls[GRADIENTS_PEER] = (materialising, data.weight)
    if hasattr(F, "linear_cross_entropy"):
        calls["torch linear_cross_entropy, plain"] = (F.linear_cross_entropy, data.weight)
        calls["torch linear_cross_entropy, chunked"] = (chunked, data.weight)
    calls["torch f32, materialising"] = (materialising, wide)
    return calls


def foretold(call: tuple, data: Data, rows: int, backward: bool) -> float:
    """About the seconds of a call, by those of two and of eight rows: a part is the same for all, the rest grows."""
    if rows <= 8:
        return 0.0
    one = Measured(*call)
    for few in (2, 8):
        one.run(data, few, backward)
    return one.both[1] + max(0.0, one.both[1] - one.both[0]) * (rows - 8) / 6


def measure(shape: str, rows: list[int], threads: int, repeats: int, limit: float, backward: bool = True,
            only: list[str] | None = None, errors: bool = False) -> dict:  # fmt: skip
    """Median ms and the peak of memory of each call and number of rows; calls that would take longer than `limit`
    seconds are left out, and named."""
    torch.set_num_threads(threads)
    vocab, size, _ = parse_shape(shape)
    data = Data(vocab, size, max(rows), None)
    calls = make_calls(data, data.weight.float(), torch.zeros(vocab, size), threads)
    calls = {name: call for name, call in calls.items() if not only or any(part in name for part in only)}
    result = {"shape": shape, "threads": threads, "backward": backward, "gradient_mib": vocab * size * 2 / 2**20,
              "results": [], "left_out": []}  # fmt: skip
    for call in calls.values():  # what a first call loads is not its cost
        Measured(*call).run(data, 1, backward)
    for count in rows:
        expected = {name: foretold(call, data, count, backward) for name, call in calls.items()}
        for name in (name for name in calls if expected[name] > limit):
            result["left_out"].append({"rows": count, "name": name, "seconds": expected[name]})
        right = float64_gradients(data, count) if errors else None
        measured = {name: Measured(*call) for name, call in calls.items() if expected[name] <= limit}
        lines = {name: {"rows": count, "name": name} for name in measured}
        for turn in range(repeats):
            for name, one in measured.items():
                if sum(one.both) > LONG:
                    continue
                gradients = one.run(data, count, backward)
                print(f"{shape}: {count} rows, {name}: {one.both[-1]:.1f} s", file=sys.stderr)
                if right is not None and turn == 0:
                    lines[name]["errors"] = [error(*pair) for pair in zip(gradients, right, strict=True)]
                del gradients
        for name, one in measured.items():
            lines[name] |= {"forward_ms": statistics.median(one.forward) * 1e3, "peak_mib": one.peak_mib}
            if backward:
                lines[name]["both_ms"] = statistics.median(one.both) * 1e3
        result["results"] += lines.values()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shapes = [name for name in SHAPES if SHAPES[name][2] is None]
    parser.add_argument("--shape", default="qwen3-0.6b", help=f"V,H or one of {', '.join(shapes)}")
    parser.add_argument("--rows", default="256", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--repeats", default=3, type=int)
    parser.add_argument("--threads", default=len(os.sched_getaffinity(0)), type=int)
    parser.add_argument("--limit", default=float("inf"), type=float, help="leave out calls that take more seconds")
    parser.add_argument("--error", action="store_true", help="the gradients' error against float64")
    parser.add_argument("--forward", action="store_true", help="leave out backward, not what forward keeps for it")
    parser.add_argument("--only", action="append", help="only calls whose name holds this")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    if arguments.error and arguments.forward:
        parser.error("--error is that of gradients, which --forward leaves out")
    if SHAPES.get(arguments.shape, (0, 0, None))[2] is not None:
        parser.error(f"--shape: {arguments.shape} has a softcap, which these losses have not")
    result = measure(arguments.shape, arguments.rows, arguments.threads, arguments.repeats, arguments.limit,
                     not arguments.forward, arguments.only, arguments.error)  # fmt: skip
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"`bench/peers/training.py {' '.join(sys.argv[1:])}`, {processor()}, threads {arguments.threads}, torch "
        f"{torch.__version__}, {date.today().isoformat()}; the gradients themselves are {result['gradient_mib']:.0f} "
        f"MiB in bf16. Median ms; in brackets as a multiple of {GRADIENTS_PEER}.\n\n{gradients_table(result)}"
    )


if __name__ == "__main__":
    main()
