#!/usr/bin/env python3
"""isologit beside what people would use instead: the same shapes, data and threads, timed in turn in one run.

Needs the isologit package with numpy, torch and tabulate; OpenBLAS (libopenblas.so) and oneDNN (libdnnl-dev and g++)
where they are installed. Prints a table in Markdown, and with --json one object.
"""

import argparse
import ctypes
import ctypes.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import isologit
from tables import PEER, heads_table

SHAPES = {
    "qwen3-0.6b": (151936, 1024, None),
    "qwen3-8b": (151936, 4096, None),
    "llama3-8b": (128256, 4096, None),
    "gemma3-4b": (262144, 2560, 30.0),
    "deepseek-v3": (129280, 7168, None),
    "gpt-oss": (201088, 2880, None),
}

LONG = 5.0  # seconds in which noise is little: a call that took so long is not repeated

Call = Callable[[], object]


def parse_shape(text: str) -> tuple[int, int, float | None]:
    """V, H and softcap of one of SHAPES, or of "V,H"."""
    if text in SHAPES:
        return SHAPES[text]
    try:
        vocab, size = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"shape: {text!r}; known are {', '.join(SHAPES)}, or V,H such as 32000,1024") from None
    return vocab, size, None


class Data:
    """Random normal bf16: weight of deviation 0.02, hidden of 1, `outliers` times that in 8 of 4096 channels."""

    def __init__(self, vocab: int, size: int, rows: int, outliers: float | None) -> None:
        random = torch.Generator().manual_seed(1)
        self.weight = torch.empty(vocab, size, dtype=torch.bfloat16)
        for part in self.weight.split(4096):
            part.copy_(torch.randn(part.shape, generator=random) * 0.02)
        hidden = torch.randn(rows, size, generator=random)
        if outliers is not None:
            hidden[:, 77::512] *= outliers
        self.hidden = hidden.to(torch.bfloat16)
        self.ids = torch.randint(vocab, (rows,), generator=random)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def read_seconds(weight: Tensor) -> float:
    """The least time in which torch adds up the weight's bytes as int64."""
    words = weight.view(torch.int64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        words.sum()
        times.append(time.perf_counter() - start)
    return min(times)


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def isologit_call(data: Data, rows: int, softcap: float | None, arithmetic: str, threads: int) -> Call:
    hidden = data.hidden[:rows].view(torch.uint16).numpy()
    weight = data.weight.view(torch.uint16).numpy()
    ids = data.ids[:rows].numpy()
    outputs = ("logprobs", "lse", "entropy", "argmax", "rank")
    return lambda: isologit.score(
        hidden, weight, ids, outputs=outputs, softcap=softcap, dtype="bf16", arithmetic=arithmetic, threads=threads
    )


def pipeline(hidden: Tensor, weight: Tensor, ids: Tensor, softcap: float | None) -> Call:
    def call() -> Tensor:
        logits = softcapped(F.linear(hidden, weight).float(), softcap)
        return torch.log_softmax(logits, -1).gather(-1, ids[:, None])

    return call


def openblas_call(hidden: Tensor, weight: Tensor, threads: int) -> Call | None:
    path = ctypes.util.find_library("openblas")
    if path is None:
        return None
    library = ctypes.CDLL(path)
    library.openblas_set_num_threads(threads)
    rows, size = hidden.shape
    vocab = weight.shape[0]
    logits = torch.empty(rows, vocab)
    row_major, plain, transposed = 101, 111, 112

    def call() -> None:
        library.cblas_sgemm(
            row_major, plain, transposed, rows, vocab, size, ctypes.c_float(1), ctypes.c_void_p(hidden.data_ptr()),
            size, ctypes.c_void_p(weight.data_ptr()), size, ctypes.c_float(0), ctypes.c_void_p(logits.data_ptr()),
            vocab,
        )  # fmt: skip

    return call


def load_onednn(folder: str) -> ctypes.CDLL | None:
    library = Path(folder) / "onednn.so"
    source = Path(__file__).with_name("onednn.cpp")
    command = ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(library), "-ldnnl"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        print("left out: oneDNN is not installed", file=sys.stderr)
        return None
    loaded = ctypes.CDLL(str(library))
    try:
        onednn_call(loaded, torch.zeros(1, 64, dtype=torch.bfloat16), torch.zeros(64, 64, dtype=torch.bfloat16))()
    except RuntimeError:
        print("left out: this oneDNN has no bf16 product for this processor", file=sys.stderr)
        return None
    return loaded


def onednn_call(library: ctypes.CDLL, hidden: Tensor, weight: Tensor) -> Call:
    rows, size = hidden.shape
    vocab = weight.shape[0]
    logits = torch.empty(rows, vocab)

    def call() -> None:
        status = library.isologit_peer_onednn(
            ctypes.c_void_p(hidden.data_ptr()), ctypes.c_void_p(weight.data_ptr()), ctypes.c_void_p(logits.data_ptr()),
            ctypes.c_int64(rows), ctypes.c_int64(vocab), ctypes.c_int64(size),
        )  # fmt: skip
        if status != 0:
            raise RuntimeError("oneDNN refused the product")

    return call


def make_calls(data: Data, wide: Tensor, rows: int, softcap: float | None, threads: int,
               onednn: ctypes.CDLL | None) -> dict[str, Call]:  # fmt: skip
    hidden, ids = data.hidden[:rows], data.ids[:rows]
    hidden_wide = hidden.float()
    calls: dict[str, Call | None] = {
        "isologit exact": isologit_call(data, rows, softcap, "exact", threads),
        "isologit fast": isologit_call(data, rows, softcap, "fast", threads),
        PEER: pipeline(hidden, data.weight, ids, softcap),
    }
    if hasattr(F, "linear_cross_entropy") and softcap is None:
        calls["torch linear_cross_entropy"] = lambda: F.linear_cross_entropy(hidden, data.weight, ids)
    if onednn is not None:
        calls["oneDNN bf16, logits only"] = onednn_call(onednn, hidden, data.weight)
    calls["torch f32 pipeline"] = pipeline(hidden_wide, wide, ids, softcap)
    calls["OpenBLAS sgemm, logits only"] = openblas_call(hidden_wide, wide, threads)
    return {name: call for name, call in calls.items() if call is not None}


def time_in_turn(calls: dict[str, Call], repeats: int, seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if (turn >= 3 and sum(times[name]) > seconds) or sum(times[name]) > LONG:
                continue
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def measure(shape: str, rows: list[int], threads: int, seconds: float, outliers: float | None = None,
            only: list[str] | None = None) -> dict:  # fmt: skip
    """Median, least and greatest ms of each call and number of rows, and the ms of reading the weight."""
    torch.set_num_threads(threads)
    vocab, size, softcap = parse_shape(shape)
    data = Data(vocab, size, max(rows), outliers)
    wide = data.weight.float()
    result = {"shape": shape, "threads": threads, "read_ms": read_seconds(data.weight) * 1e3, "results": []}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        onednn = load_onednn(folder)
        for count in rows:
            calls = make_calls(data, wide, count, softcap, threads, onednn)
            calls = {name: call for name, call in calls.items() if not only or any(part in name for part in only)}
            for name, times in time_in_turn(calls, 7, seconds).items():
                line = {"rows": count, "name": name, "ms": statistics.median(times) * 1e3}
                line |= {"ms_min": min(times) * 1e3, "ms_max": max(times) * 1e3}
                result["results"].append(line)
            print(f"{shape}: {count} rows done", file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen3-0.6b", help=f"V,H or one of {', '.join(SHAPES)}")
    parser.add_argument("--rows", default="1,4,16,64,256", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--threads", default=len(os.sched_getaffinity(0)), type=int)
    parser.add_argument("--outliers", type=float, help="multiply 8 of 4096 hidden channels by this")
    parser.add_argument("--seconds", default=3.0, type=float, help="no further repeats past this, beyond three")
    parser.add_argument("--only", action="append", help="only calls whose name holds this")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    result = measure(arguments.shape, arguments.rows, arguments.threads, arguments.seconds, arguments.outliers,
                     arguments.only)  # fmt: skip
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"`bench/peers/peers.py {' '.join(sys.argv[1:])}`, {processor()}, threads {arguments.threads}, torch "
        f"{torch.__version__}, {date.today().isoformat()}; reading the weight takes {result['read_ms']:.0f} ms. Median "
        f"ms; in brackets the time as a multiple of {PEER}.\n\n{heads_table(result)}"
    )


if __name__ == "__main__":
    main()
