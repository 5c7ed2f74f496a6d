"""isologit.parallel over gloo: the contract's bits at any number of ranks, and what ranks say of one that fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
if not torch.distributed.is_available() or sys.platform == "win32":
    pytest.skip("torch has no distributed package here", allow_module_level=True)

CALL = "isologit.parallel.score"
ALIKE = "; expected all ranks to make the same call with the same arguments, but for their own rows"
SHAPE = "hidden is [4, 12], weight is [10, 11]; expected [..., H] and [v, H]"
FACTORS = "lora: a is [2, 12] and b is [11, 2]; expected [r, 12] and [10, r]"
H_SPLIT = (
    "ValueError: hidden is [4, 12], weight is [30, 4]; expected [..., H] and [v, H]. A head that is split on H is not "
    "taken: gather it, or split it by rows of the vocabulary"
)
OVERLAP = (
    f"ParallelError: {CALL}: rank 1 has ids [9, 19), and the ranks before it those up to 10; expected every id of the "
    "vocabulary [0, 30) once"
)
CAP = f"ParallelError: {CALL}: softcap is 31.0 on rank 2 and 30.0 on rank 0{ALIKE}"
NO_MEMORY = f"ParallelError: {CALL}: rank 1 failed: MemoryError: no memory"
SHARD_1 = (
    "NotImplementedError: weight is a DTensor [30, 12] with placements ('Shard(dim=1)',) over a mesh of [3]; expected "
    "Shard(0) over one dimension of the mesh and Replicate over the others: weight.redistribute(placements=...) makes "
    "that"
)
TOLD = {  # of each rank
    "another_shape": [f"ParallelError: {CALL}: rank 1 failed: ValueError: {SHAPE}", f"ValueError: {SHAPE}", 0],
    "split_on_h": [H_SPLIT] * 3,
    "sharded_on_h": [SHARD_1] * 3,
    "overlap": [OVERLAP] * 3,
    "another_cap": [CAP] * 3,
    "b_of_other_rows": [f"ParallelError: {CALL}: rank 1 failed: ValueError: {FACTORS}", f"ValueError: {FACTORS}", 0],
    "a_block_fails": [NO_MEMORY, "MemoryError: no memory", NO_MEMORY],
    "fails_within": [NO_MEMORY, "MemoryError: no memory", NO_MEMORY],
}
WORDS = {  # of every rank that lives
    "another_hidden": "the checksum of hidden is ",
    "another_a": "the checksum of lora a is ",
    "another_kernel": " and 'portable_fast' on rank 0" + ALIKE,
    "another_call": "the call is 'isologit.parallel.score' on rank 1 and 'isologit.parallel.sample' on rank 0",
    "another_upstream": "isologit.parallel.score, backward: the checksum of d_logprobs is ",
    "killed": "could not exchange message 0 with the others",
    "killed_within": "could not exchange message 2 with the others",
    "killed_in_backward": "isologit.parallel.score, backward: rank ",
    "lags_too_long": "A rank died, did not make this call, or was later than the group's time-out",
}


def run(*scenarios):
    driver = Path(__file__).with_name("groups.py")
    done = subprocess.run(
        [sys.executable, driver, *scenarios], capture_output=True, text=True, timeout=240, cwd=driver.parent
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    return run("sharded", "blocks_of_ranks", "low_rank", "adapters", "bytes_of_rows", "lags", *TOLD, *WORDS)


def test_the_contracts_bits_at_every_number_of_ranks():
    assert [rank.get("returned", rank) for rank in run("results")["results"]] == ["right"] * 7


def test_weights_that_say_where_they_lie(found):
    assert [rank.get("returned", rank) for rank in found["sharded"]] == ["right"] * 3


def test_ranks_with_several_blocks(found):
    assert [rank.get("returned", rank) for rank in found["blocks_of_ranks"]] == ["right"] * 3


def test_low_rank_additions(found):
    assert [rank.get("returned", rank) for rank in found["low_rank"]] == ["right"] * 3


def test_adapters_of_trainers(found):
    assert [rank.get("returned", rank) for rank in found["adapters"]] == ["right"] * 3


# What docs/parallel.md says, with H = 8, k = 8, two ranks and hidden in f32.
BYTES = {
    "logprobs": 119,
    "top-8": 118 + 12 * 8,
    "exact backward": 16 * 8 // 2 + 4 * 8 // 2 + 16,
    "fast backward": 8 * 8 // 2 + 4 * 8 // 2 + 8,
    "exact backward of own rows": 16 * 8 // 2 + 4 // 2 + 16,
    "fast backward of own rows": 8 * 8 // 2 + 4 // 2 + 8,
    "sample": 123,
    "sample of top-8": 119 + 12 * 8,
}


@pytest.mark.parametrize("call", BYTES)
def test_bytes_of_a_row(found, call):
    """Few rows take another round or another contender: a byte or two a row. That none grows with the vocabulary is
    what forty times as many ids show."""
    for rank in found["bytes_of_rows"]:
        few, many = rank["returned"][call]
        assert BYTES[call] - 4 <= few <= BYTES[call] and many < few + 4


def test_a_rank_that_lags_is_waited_for(found):
    assert [rank.get("returned", rank) for rank in found["lags"]] == ["right"] * 3
    assert all(rank["seconds"] > 0.4 for rank in found["lags"])


@pytest.mark.parametrize("scenario", TOLD)
def test_what_each_rank_is_told(found, scenario):
    for rank, told in zip(found[scenario], TOLD[scenario], strict=True):
        assert rank["error"] == (told or TOLD[scenario][0]) and rank["seconds"] < 20


@pytest.mark.parametrize("scenario", WORDS)
def test_no_rank_hangs_or_goes_on(found, scenario):
    dead = {1} if scenario.startswith("killed") else set()
    for rank, told in enumerate(found[scenario]):
        if rank in dead:
            assert told is None
        else:
            assert told["error"].startswith("ParallelError") and WORDS[scenario] in told["error"], told
            assert told["seconds"] < 20
