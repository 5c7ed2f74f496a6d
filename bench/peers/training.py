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
from peers import SHAPES, Data, processor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
PEER = "torch bf16, materialising"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen3-0.6b", choices=[name for name in SHAPES if SHAPES[name][2] is None])
    parser.add_argument("--rows", default="256", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--repeats", default=3, type=int)
    parser.add_argument("--threads", default=len(os.sched_getaffinity(0)), type=int)
    parser.add_argument("--error", action="store_true", help="the gradients' error against float64")
    parser.add_argument("--forward", action="store_true", help="leave out backward, not what forward keeps for it")
    parser.add_argument("--only", action="append", help="only calls whose name holds this")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    vocab, size, _ = SHAPES[arguments.shape]
    data = Data(vocab, size, max(arguments.rows), None)
    wide = data.weight.float()
    buffer = torch.zeros(vocab, size)
    ours = {
        "isologit exact": isologit_loss("exact", "fast", arguments.threads),
        "isologit fast": isologit_loss("fast", "fast", arguments.threads),
        "isologit exact, exact gradients": isologit_loss("exact", "exact", arguments.threads),
    }
    calls = {name: (loss, data.weight) for name, loss in ours.items()}
    into_buffer = isologit_loss("exact", "fast", arguments.threads, buffer)
    calls["isologit exact, dweight into f32"] = (into_buffer, data.weight, buffer)
    calls[PEER] = (materialising, data.weight)
    calls["torch linear_cross_entropy, plain"] = (F.linear_cross_entropy, data.weight)
    calls["torch linear_cross_entropy, chunked"] = (chunked, data.weight)
    calls["torch f32, materialising"] = (materialising, wide)
    if arguments.error and arguments.forward:
        parser.error("--error is that of gradients, which --forward leaves out")
    if arguments.only:
        calls = {name: call for name, call in calls.items() if any(part in name for part in arguments.only)}
    print(
        f"`bench/peers/training.py {' '.join(sys.argv[1:])}`, {processor()}, threads {arguments.threads}, torch "
        f"{torch.__version__}, {date.today().isoformat()}; the gradients themselves are "
        f"{vocab * size * 2 / 2**20:.0f} MiB in bf16. Median ms; in brackets as a multiple of {PEER}."
    )
    for call in calls.values():  # what a first call loads is not its cost
        Measured(*call).run(data, 1, not arguments.forward)
    for rows in arguments.rows:
        right = float64_gradients(data, rows) if arguments.error else None
        measured = {name: Measured(*call) for name, call in calls.items()}
        errors = {}
        for turn in range(arguments.repeats):
            for name, one in measured.items():
                gradients = one.run(data, rows, not arguments.forward)
                print(f"{rows} rows, {name}: {one.both[-1]:.1f} s", file=sys.stderr)
                if right is not None and turn == 0:
                    errors[name] = [error(*pair) for pair in zip(gradients, right, strict=True)]
                del gradients
        print_table(rows, measured, errors)


def print_table(rows: int, measured: dict[str, Measured], errors: dict[str, list[float]]) -> None:
    peer = measured.get(PEER)
    columns = [f"{rows} rows", "forward", "forward and backward", "peak MiB"]
    if errors:
        columns += ["error of dhidden", "of dweight"]
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name, one in measured.items():
        cells = [name]
        for times in ("forward", "both"):
            seconds = statistics.median(getattr(one, times))
            ratio = f" ({seconds / statistics.median(getattr(peer, times)):.2f})" if peer else ""
            cells.append(f"{seconds * 1e3:.0f}{ratio}")
        cells.append(f"{one.peak_mib:.0f}")
        cells += [f"{share:.1e}" for share in errors.get(name, [])]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
