"""What calls of the CUDA library cost on a GPU, beside torch's: medians, on random data of V=151936 H=4096."""

import statistics
import sys
from collections.abc import Callable

import torch
from gpu_inputs import BF16, matrix
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

VOCAB, DEPTH = 151936, 4096
# The linears of a layer of an 8B model: depth, features.
LAYER = ((4096, 6144), (4096, 4096), (4096, 24576), (12288, 4096))
GIB, MIB = 2**30, 2**20


def milliseconds(work: Callable, repeats: int, calls: int) -> float:
    """Of a call among so many that follow one another, as in a CUDA graph: the device does not wait for Python."""
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times)


def replayed(work: Callable, calls: int = 20) -> float:
    """Milliseconds of a call among so many in a CUDA graph."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    return milliseconds(graph.replay, 5, 1) / calls


def peak(work: Callable) -> float:
    """Bytes beyond what was there and what comes out."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = work()
    torch.cuda.synchronize()
    kept = result.numel() * result.element_size() if isinstance(result, Tensor) else 0
    return torch.cuda.max_memory_allocated() - before - kept


def by_wgmma(library, say: Callable) -> list[str]:
    """The arithmetics by wgmma that the device may use."""
    ways = []
    for arithmetic in ("exact_wgmma", "fast_wgmma"):
        try:
            library.self_test(0, arithmetic)
            ways.append(arithmetic)
        except NotImplementedError as refused:
            say(arithmetic, "refused:", refused)
    return ways


def logits(library, say: Callable) -> list[dict]:
    weight = matrix(VOCAB, DEPTH, 1, "cuda", BF16, "normal")
    wide = weight.float()
    say(f"logits of V={VOCAB} H={DEPTH}, ms, medians; memory is beyond operands and result")
    rows, ways = [], by_wgmma(library, say)
    for count in (1, 4, 8, 16, 24, 32, 64, 128, 256, 1024, 4096):
        rows.append(_logits_row(library, count, weight, wide, ways))
        say({k: round(v, 3) for k, v in rows[-1].items()})
    return rows


def _logits_row(library, count: int, weight: Tensor, wide: Tensor, ways: list[str]) -> dict:
    hidden = matrix(count, DEPTH, 2, "cuda", BF16, "normal")
    wide_hidden = hidden.float()
    out = torch.empty(count, VOCAB, device="cuda")
    repeats, calls = (7, 10) if count <= 128 else (3, 1)
    row = {
        "rows": count,
        "exact": milliseconds(lambda: library.logits(hidden, weight, out=out), repeats, calls),
        "fast": milliseconds(lambda: library.logits(hidden, weight, out=out, arithmetic="fast"), repeats, calls),
        "torch bf16": milliseconds(lambda: linear(hidden, weight), repeats, calls),
        "torch f32": milliseconds(lambda: torch.matmul(wide_hidden, wide.T, out=out), repeats, calls),
        "MiB": peak(lambda: library.logits(hidden, weight)) / MIB,
    }
    for way in ways:
        row[way] = milliseconds(lambda a=way: library.logits(hidden, weight, out=out, arithmetic=a), repeats, calls)
    row["to bf16"] = row["exact"] / row["torch bf16"]
    row["to f32"] = row["exact"] / row["torch f32"]
    row["fast to bf16"] = row["fast"] / row["torch bf16"]
    row["TFLOP/s"] = 2e-9 * count * VOCAB * DEPTH / row["exact"]
    return row


def _kernel_of(key: str) -> str | None:
    """Of ours, and of Digits whether it makes the leading products."""
    for kernel in ("PrepareDigits", "Prepare", "Split", "Staged", "Digits", "DigitsWgmma", "Settle"):
        if f"::{kernel}<" in key:
            leading = kernel.startswith("Digits") and ("true>" in key or "bool)1>" in key)
            return f"{kernel}, leading" if leading else kernel
    return None


def profile(library, say: Callable) -> dict:
    """How calls divide among their kernels, ms: logits by rows, and a linear of 2048 rows to bf16."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as trace

    weight = matrix(VOCAB, DEPTH, 1, "cuda", BF16, "normal")
    results = {}
    ways = ("exact", *(way for way in by_wgmma(library, say) if way == "exact_wgmma"))
    for rows, features, dtype, way in (
        *((rows, VOCAB, torch.float32, way) for rows in (1, 8, 16, 32, 64, 1024) for way in ways),
        *((rows, 24576, BF16, way) for rows in (64, 2048) for way in ways),
    ):
        hidden = matrix(rows, DEPTH, 2, "cuda", BF16, "normal")
        library.logits(hidden, weight, vocab_size=features, dtype=dtype, arithmetic=way)
        with trace(activities=[ProfilerActivity.CUDA]) as traced:
            library.logits(hidden, weight, vocab_size=features, dtype=dtype, arithmetic=way)
            torch.cuda.synchronize()
        parts: dict[str, float] = {}
        for event in traced.key_averages():
            if kernel := _kernel_of(event.key):
                parts[kernel] = parts.get(kernel, 0.0) + round(event.device_time_total / 1e3, 4)
        what = f"{rows} rows, {features} features, {dtype}, {way}"
        results[what] = parts
        say("kernels, ms,", what, parts)
    return results


def _of_ids(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)


def scores(library, say: Callable) -> list[dict]:
    """Logprobs of one id a row: exact and fast, beside heads of bf16 and f32 with a log-softmax in f32, compiled."""
    Head = sys.modules[type(library).__module__].Head
    weight = matrix(VOCAB, DEPTH, 1, "cuda", BF16, "normal")
    compiled = torch.compile(lambda hidden, weight, ids: _of_ids(linear(hidden, weight).float(), ids), dynamic=False)
    rows = []
    for count in (16, 256, 1024, 4096):
        hidden = matrix(count, DEPTH, 2, "cuda", BF16, "normal")
        ids = torch.arange(count, device="cuda") * 577 % VOCAB
        wide_hidden, wide = hidden.float(), weight.float()
        calls = {
            "exact": lambda h=hidden, i=ids: library.score(Head(h, weight), i[:, None])["logprobs"],
            "fast": lambda h=hidden, i=ids: library.score(Head(h, weight, arithmetic="fast"), i[:, None])["logprobs"],
            "bf16, compiled": lambda h=hidden, i=ids: compiled(h, weight, i),
            "f32, compiled": lambda h=wide_hidden, i=ids, w=wide: compiled(h, w, i),
        }
        row = {"rows": count}
        for name, call in calls.items():
            row[name] = milliseconds(call, 3, 1)
            row[f"{name}, MiB"] = peak(call) / MIB
        rows.append(row)
        say("logprobs, ms", {k: round(v, 3) for k, v in row.items()})
        del wide, calls
    return rows


def gradients(library, say: Callable) -> list[dict]:
    """Forward and backward of the loss of 1024 tokens, beside heads of bf16 and f32 and torch's fused loss."""
    Head = sys.modules[type(library).__module__].Head
    weight, count = matrix(VOCAB, DEPTH, 1, "cuda", BF16, "normal"), 1024
    hidden = matrix(count, DEPTH, 2, "cuda", BF16, "normal")
    ids = torch.arange(count, device="cuda") * 577 % VOCAB
    upstream = torch.full((count, 1), -1.0 / count, device="cuda")
    dhidden, dweight = torch.empty_like(hidden), torch.empty_like(weight)

    def ours(arithmetic: str) -> None:
        head = Head(hidden, weight, arithmetic=arithmetic)
        summaries = torch.empty(count, 5, dtype=torch.float64, device="cuda")
        library.score(head, ids[:, None], summaries=summaries)
        given = {"d_logprobs": upstream, "summaries": summaries, "dhidden": dhidden, "dweight": dweight}
        library.backward(head, ids[:, None], **given)

    def theirs(loss: Callable, dtype: torch.dtype) -> Callable:
        leaves = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
        return lambda: torch.autograd.grad(loss(*leaves), leaves) and None

    calls = {
        "exact": lambda: lambda: ours("exact"),
        "fast": lambda: lambda: ours("fast"),
        "torch bf16": lambda: theirs(lambda h, w: cross_entropy(linear(h, w).float(), ids), BF16),
        "torch f32": lambda: theirs(lambda h, w: cross_entropy(linear(h, w), ids), torch.float32),
    }
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        fused = torch.nn.functional.linear_cross_entropy
        calls["linear_cross_entropy"] = lambda: theirs(lambda h, w: fused(h, w, ids), BF16)
    row: dict = {"rows": count}
    for name, make in calls.items():
        call = make()
        row[name] = milliseconds(call, 3, 1)
        row[f"{name}, GiB"] = peak(call) / GIB
        say("forward and backward of 1024 rows, ms", name, round(row[name], 2), round(row[f"{name}, GiB"], 2), "GiB")
        del call
        torch.cuda.empty_cache()
    return [row]


def linears(library, say: Callable) -> list[dict]:
    """All of a layer of an 8B model, to bf16, in a CUDA graph."""
    weights = [matrix(features, depth, i, "cuda", BF16, "normal") for i, (depth, features) in enumerate(LAYER)]
    rows, ways = [], [way for way in by_wgmma(library, say) if way == "exact_wgmma"]
    for count in (1, 4, 8, 16, 32, 64, 512, 2048):
        hidden = [matrix(count, depth, 9, "cuda", BF16, "normal") for depth, _ in LAYER]
        pairs = list(zip(hidden, weights, strict=True))
        calls = 20 if count <= 64 else 2
        row = {
            "rows": count,
            "exact": replayed(lambda p=pairs: [library.logits(h, w, dtype=BF16) for h, w in p], calls),
            "torch bf16": replayed(lambda p=pairs: [linear(h, w) for h, w in p], calls),
        }
        for way in ways:
            row[way] = replayed(
                lambda p=pairs, a=way: [library.logits(h, w, dtype=BF16, arithmetic=a) for h, w in p], calls
            )
        row["ratio"] = row["exact"] / row["torch bf16"]
        rows.append(row)
        say("linears of a layer, ms", {k: round(v, 4) for k, v in row.items()})
    return rows


def operators(library, say: Callable) -> list[dict]:
    """Those of a layer of an 8B model, in bf16, in a CUDA graph; beside a copy of as many elements as a norm has."""
    rows = []
    for count in (1, 8, 64, 2048):
        x, a = (matrix(count, 4096, seed, "cuda", BF16, "normal").view(count, 1, 4096) for seed in (1, 2))
        gate, up = (matrix(count, 12288, seed, "cuda", BF16, "normal").view(count, 1, 12288) for seed in (3, 4))
        y, wide, weight = torch.empty_like(x), torch.empty_like(gate), matrix(1, 4096, 5, "cuda", BF16, "normal")[0]
        heads = x.view(count, 32, 128)
        positions, halves = torch.arange(count, device="cuda") * 1021, 2.0 ** -torch.arange(64.0, device="cuda")
        works = {
            "rms_norm": lambda x=x, y=y, w=weight: library.rms_norm(x, w, 1e-6, False, y),
            "rms_norm of heads": lambda x=heads, y=y, w=weight[:128]: library.rms_norm(x, w, 1e-6, False, y.view_as(x)),
            "residual": lambda x=x, a=a, y=y: library.residual(x, a, None, 1.0, y),
            "silu": lambda g=gate, u=up, y=wide: library.gate(g, u, 0, 1.0, 1.0, y),
            "rotary": lambda x=heads, y=y, p=positions, f=halves: library.rotary(x, p, f, 0, 1.0, y.view_as(x)),
            "copy": lambda x=x, y=y: y.copy_(x),
        }
        rows.append({"rows": count} | {name: replayed(work) for name, work in works.items()})
        say("row operators, ms", {k: round(v, 5) for k, v in rows[-1].items()})
    return rows
