"""Scores, samples, logits after transforms, and results of given logits, whose bits scripts/gpu_check compares with
what the CPU's library recorded in scripts/gpu_score_digests.json."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_inputs import CASES, SMALL, checksums, operands, write_digests
from torch import Tensor

DIGESTS = Path(__file__).resolve().parent / "gpu_score_digests.json"
PLAIN = ("logprobs", "lse", "entropy", "sum_p2", "argmax")
SELECTED = ("logprobs", "rank", "lse")
OF_LOGITS = ("log_softmax", "lse", "entropy")
CUTS = ("min_p", "top_k", "top_p")
TOP_K = 5


def cases() -> dict:
    return {name: case for name, case in (CASES | SMALL).items() if name != "model"}


def several_ids(rows: int, vocab: int, device: str) -> Tensor:
    """[N, 3]; one in five is ignored."""
    places = torch.arange(3 * rows, device=device)
    return torch.where(places % 5 == 0, -100, places * 131 % vocab).view(rows, 3)


def one_id(rows: int, vocab: int, device: str) -> Tensor:
    places = torch.arange(rows, device=device)
    return torch.where(places % 7 == 6, -100, places * 577 % vocab)


def mask_of(vocab: int, device: str) -> Tensor:
    return torch.arange(vocab, device=device) % 3 != 0


def banned(rows: int, vocab: int) -> list[list[int]]:
    return [list(range(row % 4, vocab, 2 + row % 5)) if row % 3 else [] for row in range(rows)]


def draws(rows: int, device: str) -> dict[str, Tensor]:
    """By the names that isologit.sample has for them; a temperature of 0, cuts of each kind and none among the rows."""
    places = torch.arange(rows, device=device)
    return {
        "seed": places * -7046029254386353131,
        "sequence_id": 5 - places,
        "position": places % 3 * (2**31 - 1),
        "top_k": torch.where(places % 5 == 2, 40, 0),
        "min_p": torch.where(places % 3 == 1, 0.001, 0.0),
        "top_p": torch.where(places % 4 != 3, 0.9, 1.0),
        "temperature": torch.where(places % 11 == 10, 0.0, 0.8),
    }


def row_sums(results: list[Tensor]) -> list[int]:
    """One number a row of all of these."""
    rows = [x.reshape(x.shape[0], -1) for x in results]
    return checksums(torch.cat([x.view(torch.int32) if x.is_floating_point() else x.int() for x in rows], 1))


def by_package(case: tuple) -> dict[str, list[int]]:
    """On the CPU."""
    import isologit

    hidden, weight, bias = operands(case, "cpu")
    rows, vocab = len(hidden), len(weight)
    plain = isologit.score(
        hidden, weight, several_ids(rows, vocab, "cpu"), bias=bias, outputs=PLAIN, softcap=30.0, temperature=0.7
    )
    asked = {"bias": bias, "outputs": (*SELECTED, "log_kept"), "top_k": TOP_K}
    ids = one_id(rows, vocab, "cpu")
    masked = isologit.score(hidden, weight, ids, mask=mask_of(vocab, "cpu"), **asked)
    listed = isologit.score(hidden, weight, ids, banned=banned(rows, vocab), **asked)
    numbers = draws(rows, "cpu")
    uncut = {name: x for name, x in numbers.items() if name not in CUTS}
    drawn = isologit.sample(hidden, weight, bias=bias, mask=mask_of(vocab, "cpu"), softcap=30.0, **uncut)
    cut = isologit.sample(hidden, weight, bias=bias, softcap=30.0, **numbers)
    given = [isologit.log_softmax(hidden, temperature=0.3)]
    given += [isologit.lse_of_logits(hidden, temperature=0.3), isologit.entropy_of_logits(hidden, temperature=0.3)]
    steps = {"softcap": 30.0, "divide": 0.3, "transform_order": "scale_first", "temperature": 0.7}
    of_selected = (*SELECTED, "top_k_ids", "top_k_logprobs")
    return {
        "transformed": row_sums([isologit.logits(hidden, weight, bias=bias, **steps)]),
        "plain": row_sums([getattr(plain, name) for name in PLAIN]),
        "masked": row_sums([getattr(masked, name) for name in of_selected]),
        "listed": row_sums([getattr(listed, name) for name in of_selected]),
        "masked, log_kept": row_sums([masked.log_kept]),
        "listed, log_kept": row_sums([listed.log_kept]),
        "given": row_sums(given),
        "drawn": row_sums(list(drawn[:4])),
        "cut": row_sums(list(cut[:4])),
    }


def by_library(library, case: tuple, device: str = "cuda") -> dict[str, list[int]]:
    hidden, weight, bias = operands(case, device)
    rows, vocab = len(hidden), len(weight)
    warm, hot = (torch.tensor([t], device=device) for t in (0.7, 0.3))
    names = sys.modules[type(library).__module__]
    head = names.Head(hidden, weight, bias)
    plain = library.score(
        head._replace(softcap=30.0, temperatures=warm),
        several_ids(rows, vocab, device),
        outputs=PLAIN,
        ignores_rows=False,
    )
    lists = banned(rows, vocab)
    offsets = torch.tensor([0, *(len(ids) for ids in lists)], device=device).cumsum(0)
    flat = torch.tensor(sum(lists, []), dtype=torch.int64, device=device)
    ids, asked = one_id(rows, vocab, device)[:, None], {"outputs": (*SELECTED, "log_kept"), "top_k": TOP_K}
    masked = library.score(head, ids, mask=mask_of(vocab, device)[None], **asked)
    listed = library.score(head, ids, banned=(offsets, flat), **asked)
    numbers = draws(rows, device)
    keys = names.Draws(*(numbers[name] for name in ("seed", "sequence_id", "position")))
    capped = head._replace(softcap=30.0, temperatures=numbers["temperature"])
    drawn = library.sample(capped, keys, mask=mask_of(vocab, device)[None])
    cut = library.sample(capped, keys._replace(**{name: numbers[name] for name in CUTS}))
    logits = torch.full((rows, vocab), -77.0, device=device)
    steps = {"softcap": 30.0, "divide": 0.3, "scale_first": True, "temperatures": warm}
    proven = not bool(library.transformed(head._replace(**steps), logits).any())
    of_selected = (*SELECTED, "top_k_ids", "top_k_logprobs")
    return {
        "transformed": row_sums([logits if proven else torch.full_like(logits, torch.nan)]),
        "plain": row_sums([plain[name] for name in PLAIN]),
        "masked": row_sums([masked[name] for name in of_selected]),
        "listed": row_sums([listed[name] for name in of_selected]),
        "masked, log_kept": shares_of(masked),
        "listed, log_kept": shares_of(listed),
        "given": row_sums([library.of_logits(hidden, name, temperatures=hot)[0] for name in OF_LOGITS]),
        "drawn": row_sums([drawn[name] for name in names.SAMPLES]),
        "cut": row_sums([cut[name] for name in names.SAMPLES]),
    }


def shares_of(found: dict[str, Tensor]) -> list[int | None]:
    """Of log_kept; None where it is open, which the status counts: those calls Python leaves to the torch backend."""
    left_open = int(found["status"][0])
    sums = row_sums([found["log_kept"]])
    nan = found["log_kept"].isnan().tolist()
    return [None if left_open and is_nan else own for own, is_nan in zip(sums, nan, strict=True)]


def record(say: Callable) -> None:
    digests = {}
    for name, case in cases().items():
        digests[name] = by_package(case)
        say("scores", name)
    write_digests(DIGESTS, digests)


def check(library, say: Callable, only: dict) -> bool:
    digests, right = json.loads(DIGESTS.read_text()), True
    for name, case in only.items():
        found = by_library(library, case)
        wrong = {
            what: sum(a not in (b, None) for a, b in zip(found[what], sums, strict=True))
            for what, sums in digests[name].items()
        }
        right = right and not any(wrong.values())
        say("scores", name, "rows that differ, of so many:", wrong)
    return right
