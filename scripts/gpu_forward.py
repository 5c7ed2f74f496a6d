"""Operators of the forward pass, whose bits scripts/gpu_check compares with what the CPU's library recorded in
scripts/gpu_forward_digests.json."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_inputs import BF16, F16, F32, checksums, matrix, write_digests
from torch import Tensor

DIGESTS = Path(__file__).resolve().parent / "gpu_forward_digests.json"
# tokens, heads, elements of a head, type, type of the weight, family
CASES = {
    "decode": (3, 32, 128, BF16, BF16, "normal"),
    "odd": (17, 3, 133, BF16, F32, "normal"),
    "long": (5, 1, 4099, BF16, BF16, "normal"),
    "wild": (9, 2, 96, BF16, BF16, "wild"),
    "ties": (9, 2, 2048, BF16, F32, "ties"),
    "special": (24, 2, 64, BF16, BF16, "special"),
    "f16": (9, 2, 1100, F16, F16, "normal"),
    "f32": (9, 2, 1100, F32, F32, "normal"),
    "f32 wild": (9, 2, 160, F32, F32, "wild"),
}
GATES = ("silu", "gelu_tanh", "relu_squared", "clamped_swish")
LAYOUTS = ("halves", "pairs")
EPSILON, MULTIPLIER, ALPHA, LIMIT, FACTOR = 1e-6, 0.22, 1.702, 7.0, 1.2079


def operands(case: tuple, device: str) -> dict[str, Tensor]:
    """x, a and b of [tokens, heads, dim], of which x's rows lie apart; weight [dim], positions and frequencies."""
    tokens, heads, dim, dtype, weight_dtype, family = case
    x, a, b = (matrix(tokens * heads, dim, seed, device, dtype, family).view(tokens, heads, dim) for seed in (1, 2, 3))
    apart = torch.full((tokens, heads, dim + 3), torch.nan, dtype=dtype, device=device)
    apart[:, :, :dim] = x
    place = torch.arange(tokens, device=device)
    steps = torch.arange(dim // 2 - 1, device=device)
    return {
        "x": apart[:, :, :dim],
        "a": a,
        "b": b,
        "weight": matrix(1, dim, 4, device, weight_dtype, family).view(-1),
        "positions": torch.where(place % 3 == 0, place, place**5 * 1021 % 2**31),
        # 23 bits over halvings: no function of a device makes them.
        "frequencies": (1 - steps * 2.0**-20).to(F32) * ((127 - steps % 24) << 23).to(torch.int32).view(F32),
    }


def made(operators: dict[str, Callable], given: dict[str, Tensor]) -> dict[str, list[int]]:
    """Checksums of rows by what was made; operators by name, as Library has them but that they return the result."""
    x, a, b, weight = (given[name] for name in ("x", "a", "b", "weight"))
    found = {
        "norm": operators["rms_norm"](x, weight, EPSILON, False),
        "norm of 1 + w": operators["rms_norm"](a, weight, 0.0, True),
        "norm without a weight": operators["rms_norm"](x, None, EPSILON, False),
        "sum of two": operators["residual"](x, a, None, 1.0),
        "sum of three": operators["residual"](x, a, b, MULTIPLIER),
    }
    for kind, name in enumerate(GATES):
        found[name] = operators["gate"](a, x, kind, ALPHA, LIMIT)
        found[f"{name} alone"] = operators["gate"](x, None, kind, ALPHA, LIMIT)
    for layout, name in enumerate(LAYOUTS):
        for factor in (1.0, FACTOR):
            turned = operators["rotary"](x, given["positions"], given["frequencies"], layout, factor)
            found[f"rotary, {name}, {factor}"] = turned
    return {name: checksums(y.reshape(-1, y.shape[-1])) for name, y in found.items()}


def by_package(case: tuple) -> dict[str, list[int]]:
    """On the CPU."""
    from isologit import forward

    return made(
        {
            "rms_norm": lambda x, w, epsilon, plus: forward.rms_norm(x, w, epsilon, one_plus_weight=plus),
            "residual": lambda x, a, b, m: forward.residual(x, a, b, multiplier=m),
            "gate": lambda g, u, kind, alpha, limit: forward.gate(g, u, kind=GATES[kind], alpha=alpha, limit=limit),
            "rotary": lambda x, p, f, layout, m: forward.rotary(x, p, f, layout=LAYOUTS[layout], factor=m),
        },
        operands(case, "cpu"),
    )


def by_library(library, case: tuple) -> tuple[dict[str, list[int]], int]:
    """On the GPU; and how many results were left open."""
    statuses = []

    def into(name: str) -> Callable:
        def make(x: Tensor, *rest: object) -> Tensor:
            y = torch.full(x.shape, -77.0, dtype=x.dtype, device=x.device)
            statuses.append(getattr(library, name)(x, *rest, y))
            return y

        return make

    found = made({name: into(name) for name in ("rms_norm", "residual", "gate", "rotary")}, operands(case, "cuda"))
    return found, sum(int(status.sum()) for status in statuses if status is not None)


def record(say: Callable) -> None:
    digests = {}
    for name, case in CASES.items():
        digests[name] = by_package(case)
        say("forward", name)
    write_digests(DIGESTS, digests)


def check(library, say: Callable, only: dict = CASES) -> bool:
    digests, right = json.loads(DIGESTS.read_text()), True
    for name, case in only.items():
        found, left_open = by_library(library, case)
        wrong = {
            what: sum(a != b for a, b in zip(found[what], sums, strict=True)) for what, sums in digests[name].items()
        }
        right = right and not any(wrong.values()) and left_open == 0
        say("forward", name, "rows that differ, of so many:", wrong, "left open:", left_open)
    return right
