"""Attention, whose bits scripts/gpu_check compares with what the CPU's library recorded in
scripts/gpu_attention_digests.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_inputs import BF16, F16, F32, checksums, matrix, write_digests
from torch import Tensor

DIGESTS = Path(__file__).resolve().parent / "gpu_attention_digests.json"


class Case(NamedTuple):
    queries: tuple[int, ...]  # of each sequence
    keys: tuple[int, ...]
    heads: int = 8
    kv_heads: int = 2
    dim: int = 128
    value_dim: int = 128
    dtype: torch.dtype = BF16
    family: str = "normal"
    softcap: float = 0.0
    causal: bool = True
    window: int = 0
    has_sinks: bool = False
    page: int = 0  # tokens of one; 0: none


CASES = {
    "prefill": Case((130, 5), (130, 200)),
    "decode": Case((1, 1, 1), (700, 1, 2100), heads=32, kv_heads=8),
    "long cache": Case((1,), (40000,), heads=4, kv_heads=1),
    "window, sinks": Case((90,), (150,), dim=64, value_dim=64, window=33, has_sinks=True),
    "softcap": Case((60,), (140,), heads=4, dim=256, value_dim=256, softcap=50.0),
    "not causal": Case((33,), (100,), heads=6, kv_heads=6, dim=80, value_dim=80, causal=False),
    "odd": Case((17, 0, 3), (21, 5, 3), heads=5, kv_heads=1, dim=33, value_dim=17),
    "pages": Case((20, 1), (20, 333), dtype=F16, page=16),
    "split pages": Case((1,), (3000,), dim=192, page=48),
    "many heads": Case((3,), (70,), heads=71, kv_heads=1, dim=64, value_dim=64),
    "special": Case((50,), (90,), dim=64, value_dim=64, family="special"),
    "f16": Case((64,), (64,), dtype=F16, has_sinks=True),
}


def operands(case: Case, device: str) -> tuple[tuple[Tensor, ...], dict[str, Tensor | None], dict]:
    """q, keys and values; the lists, block table and sinks by name; and the numbers."""

    def heads_of(tokens: int, heads: int, dim: int, seed: int) -> Tensor:
        return matrix(tokens * heads, dim, seed, device, case.dtype, case.family).view(tokens, heads, dim)

    tokens = sum(case.keys)
    q = heads_of(sum(case.queries), case.heads, case.dim, 1)
    keys, values = heads_of(tokens, case.kv_heads, case.dim, 2), heads_of(tokens, case.kv_heads, case.value_dim, 3)
    counts = torch.tensor(case.keys)
    lists: dict[str, Tensor | None] = {
        "query_starts": torch.tensor([0, *case.queries]).cumsum(0),
        "key_counts": counts,
        "first_keys": counts.cumsum(0) - counts,
        "block_table": None,
        "sinks": matrix(1, case.heads, 4, device, F32, "normal").view(-1) if case.has_sinks else None,
    }
    if case.page:
        lists["first_keys"], lists["block_table"] = None, _table(case)
        keys, values = (_paged(x, case, lists["block_table"]) for x in (keys, values))
    lists = {name: None if x is None else x.to(device) for name, x in lists.items()}
    numbers = {"scale": case.dim**-0.5, "softcap": case.softcap, "causal": case.causal, "window": case.window}
    return (q, keys, values), lists, numbers


def _table(case: Case) -> Tensor:
    """Pages in an order of their own, -1 past the last of a sequence."""
    used = [-(-count // case.page) for count in case.keys]
    table = torch.full((len(used), max(used)), -1, dtype=torch.int32)
    first = 0
    for s, count in enumerate(used):
        table[s, :count] = torch.arange(first, first + count).flip(0)
        first += count
    return table


def _paged(x: Tensor, case: Case, table: Tensor) -> Tensor:
    pages = x.new_full((int(table.max()) + 1, case.page, *x.shape[1:]), torch.nan)
    first = 0
    for s, count in enumerate(case.keys):
        places = torch.arange(count)
        page, slot = table[s].long()[places // case.page], places % case.page
        pages[page.to(x.device), slot.to(x.device)] = x[first : first + count]
        first += count
    return pages


def by_package(case: Case) -> list[int]:
    """Checksums of rows, on the CPU."""
    from isologit import forward

    (q, keys, values), lists, numbers = operands(case, "cpu")
    return checksums(forward.attention(q, keys, values, **lists, **numbers).flatten(0, 1))


def by_library(library, case: Case) -> tuple[list[int], int]:
    """On the GPU; and how many results were left open, or numbers out of range."""
    of_heads, lists, numbers = operands(case, "cuda")
    sinks = lists.pop("sinks")
    q = of_heads[0]
    y = torch.full((*q.shape[:2], case.value_dim), -77.0, dtype=q.dtype, device=q.device)
    status = library.attention(*of_heads, tuple(lists.values()), sinks, tuple(numbers.values()), y)
    return checksums(y.flatten(0, 1)), int(status.sum())


def record(say: Callable) -> None:
    digests = {}
    for name, case in CASES.items():
        digests[name] = by_package(case)
        say("attention", name)
    write_digests(DIGESTS, digests)


def check(library, say: Callable, only: dict = CASES) -> bool:
    digests, right = json.loads(DIGESTS.read_text()), True
    for name, case in only.items():
        found, left_open = by_library(library, case)
        wrong = sum(a != b for a, b in zip(found, digests[name], strict=True))
        right = right and wrong == 0 and left_open == 0
        say("attention", name, "rows that differ:", wrong, "of", len(found), "left open:", left_open)
    return right
