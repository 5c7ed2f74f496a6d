"""A weight that is rewritten in place while it is scored, in a file, in shared memory and in one process.

The library reads a weight at every call and keeps nothing of it. So if writer and reader take turns (a lock, here), a
call sees the weight that the last writer left: all of it, and nothing older. Without turns a call sees, of each
element, some value that was there while it ran.
"""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import isologit  # noqa: E402

ROWS, VOCAB, SIZE = 3, 4096, 256
UPDATES = 40


def hidden():
    return np.random.default_rng(1).integers(-8, 9, (ROWS, SIZE)).astype(np.float32)


EVEN = np.random.default_rng(2).integers(-8, 8, (VOCAB, SIZE)).astype(np.float32)
VERSIONS = [EVEN, EVEN + 1]  # of even and odd numbers; small whole numbers, so that logits are, too

# By whole numbers. No id has the same logit under both.
LOGITS = [hidden().astype(np.int64) @ version.astype(np.int64).T for version in VERSIONS]
assert (LOGITS[0] != LOGITS[1]).all()


def judge(logits, number: int) -> str:
    """ "right", "stale" or "mixture"."""
    logits = np.asarray(logits)
    if (logits == LOGITS[number % 2]).all():
        return "right"
    return "stale" if (logits == LOGITS[(number + 1) % 2]).all() else "mixture"


def update(weight: np.ndarray, number: int, parts: int = 8) -> None:
    for part in np.array_split(np.arange(VOCAB), parts):
        weight[part] = VERSIONS[number % 2][part]


def keep_updating(weight: np.ndarray, lock, number) -> None:
    for n in range(1, UPDATES + 1):
        with lock:
            update(weight, n)
            number.value = n
        time.sleep(0.001)


def update_file(path: str, offset: int, lock, number) -> None:
    keep_updating(np.memmap(path, np.float32, "r+", offset, (VOCAB, SIZE)), lock, number)


def update_tensor(tensor, lock, number) -> None:
    keep_updating(tensor.numpy(), lock, number)


class Number:
    """Of the version that was written last; what a Value of multiprocessing is between processes."""

    value = 0


def watch(score, writer, lock, number) -> list[str]:
    """What was wrong, while the writer ran and right after."""
    wrong, seen = [], set()
    writer.start()
    running = True
    while running:
        running = writer.is_alive()
        with lock:
            verdict, n = judge(score(), number.value), number.value
        if verdict != "right":
            wrong.append(f"version {n}: {verdict}")
        seen.add(n)
        time.sleep(0.001)
    writer.join()
    assert UPDATES in seen and len(seen) > 2
    return wrong


def in_a_file(folder: Path):
    """A safetensors file, mapped; the writer has a mapping of its own."""
    header = {"lm_head.weight": {"dtype": "F32", "shape": [VOCAB, SIZE], "data_offsets": [0, VOCAB * SIZE * 4]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path, offset = folder / "model.safetensors", 8 + len(text)
    path.write_bytes(len(text).to_bytes(8, "little") + text + VERSIONS[0].tobytes())
    return np.memmap(path, np.float32, "r", offset, (VOCAB, SIZE)), update_file, (str(path), offset)


def in_shared_memory(folder: Path):
    tensor = torch.from_numpy(VERSIONS[0].copy()).share_memory_()
    return tensor, update_tensor, (tensor,)


def in_one_process(folder: Path):
    tensor = torch.from_numpy(VERSIONS[0].copy())
    return tensor, update_tensor, (tensor,)


def start(where, folder):
    """The weight, a writer that has not been started, its lock, and the number of the version that is there."""
    weight, target, arguments = where(folder)
    if where is in_one_process:
        lock, number = threading.Lock(), Number()
        return weight, threading.Thread(target=target, args=(*arguments, lock, number)), lock, number
    spawn = torch.multiprocessing.get_context("spawn")
    lock, number = spawn.Lock(), spawn.Value("i", 0)
    return weight, spawn.Process(target=target, args=(*arguments, lock, number)), lock, number


def scorer(weight):
    given = torch.from_numpy(hidden()) if isinstance(weight, torch.Tensor) else hidden()
    return lambda: isologit.logits(given, weight)


PLACES = [in_a_file, in_shared_memory, in_one_process]


@pytest.mark.parametrize("where", PLACES, ids=lambda where: where.__name__)
def test_updates_in_turns_are_seen_whole_and_at_once(where, tmp_path):
    weight, *rest = start(where, tmp_path)
    assert watch(scorer(weight), *rest) == []


def test_a_cached_weight_would_be_noticed(tmp_path):
    weight, *rest = start(in_one_process, tmp_path)
    wrong = watch(scorer(weight.clone()), *rest)
    assert wrong and all(text.endswith("stale") for text in wrong)


def test_a_mixture_would_be_noticed():
    weight = VERSIONS[0].copy()
    weight[VOCAB // 2 :] = VERSIONS[1][VOCAB // 2 :]
    assert judge(isologit.logits(hidden(), weight), 0) == judge(isologit.logits(hidden(), weight), 1) == "mixture"


@pytest.mark.parametrize("where", PLACES, ids=lambda where: where.__name__)
def test_updates_without_turns_end_well(where, tmp_path):
    """Each logit is then of a row whose elements come from one version or the other: a number between the bounds of
    both. The first call after the last update is right."""

    class NoLock:
        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

    weight, target, arguments = where(tmp_path)
    number = Number()
    writer = threading.Thread(target=target, args=(*arguments, NoLock(), number))
    bound = np.abs(hidden()).sum(-1, keepdims=True) * 8
    writer.start()
    calls = 0
    while writer.is_alive():
        logits = np.asarray(scorer(weight)())
        assert (np.abs(logits) <= bound).all() and (logits == np.rint(logits)).all()
        calls += 1
    writer.join()
    assert calls > 0 and judge(scorer(weight)(), UPDATES) == "right"
