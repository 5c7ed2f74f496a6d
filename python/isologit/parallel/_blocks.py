"""The calls of a rank whose rows lie in several blocks: each block is a party, and they take turns.

A block's call runs on a thread of its own until it hands in a state; then the next block's does. So each has all of the
library's threads, and one state a block goes to the other ranks at once.
"""

import itertools
import struct
import threading
from collections.abc import Callable
from typing import Any

import torch

from isologit import _native
from isologit.parallel._exchange import Exchange
from isologit.parallel._shard import Shard

Call = Callable[[_native.PeersCalls], Any]


def run(
    exchange: Exchange, calls: list[Call], shards: list[Shard], counts: list[int], bounds: list[int] | None = None
) -> list[Any]:
    """What each block's call returns.

    counts: the blocks of each rank, which are numbered in the order of ranks. bounds: rank r has rows [bounds[r],
    bounds[r + 1]) of dhidden, which its first block's call makes; else every call makes all.
    """

    def rows_of(block: int, scatter: Any) -> _native.OwnRows | None:
        if bounds is None:
            return None
        first, last = bounds[exchange.rank : exchange.rank + 2]
        return _native.OwnRows(sum(counts[: exchange.rank]) + block, last if block else first, last, scatter)

    if sum(counts) == exchange.size:
        own = exchange.peers(shards[0].first_id, shards[0].vocab_size, rows_of(0, exchange.scatter))
        return [calls[0](own)]
    turns = [
        _Turn(call, shard, sum(counts), lambda scatter, block=block: rows_of(block, scatter))
        for block, (call, shard) in enumerate(zip(calls, shards, strict=True))
    ]
    try:
        states: list[list[bytes]] = [[]] * len(turns)
        while True:
            handed = [turn.take(those) for turn, those in zip(turns, states, strict=True)]
            if None in handed:
                assert not any(handed), "blocks of one call exchange states equally often"
                return [turn.found for turn in turns]
            states = _exchanged(exchange, handed, counts)
    finally:
        for turn in turns:
            turn.stop()


def _exchanged(exchange: Exchange, handed: list[Any], counts: list[int]) -> list[list[bytes]]:
    """What each block is given for what all hand in: bytes for all, or bytes for each block of all ranks."""
    if isinstance(handed[0], bytes):
        states = [state for ranks in exchange.states(_packed(handed)) for state in _unpacked(ranks)]
        return [states] * len(handed)
    bounds = [0, *itertools.accumulate(counts)]
    parts = exchange.scatter(
        [
            _packed([part for block in handed for part in block[first:last]])
            for first, last in zip(bounds, bounds[1:], strict=False)
        ]
    )
    ranks = [_unpacked(part) for part in parts]  # of each block there those for each block here
    own = len(handed)
    return [[part for rank in ranks for part in rank[block::own]] for block in range(own)]


def _packed(states: list[bytes]) -> bytes:
    sizes = (len(states), *map(len, states))
    return b"".join((struct.pack(f"<{len(sizes)}Q", *sizes), *states))


def _unpacked(packed: bytes) -> list[bytes]:
    (count,) = struct.unpack_from("<Q", packed)
    states, at = [], 8 * (1 + count)
    for size in struct.unpack_from(f"<{count}Q", packed, 8):
        states.append(packed[at : at + size])
        at += size
    return states


class _Stopped(Exception):
    """Another block's call, or the exchange, has failed."""


class _Turn:
    """A call that runs only while take() waits for it."""

    def __init__(self, call: Call, shard: Shard, parties: int, rows_of: Any) -> None:
        self.found: Any = None
        self._error: BaseException | None = None
        self._states: list[bytes] = []
        self._handed: bytes | list[bytes] | None = None
        self._stopped = False
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        peers = _native.PeersCalls(shard.first_id, shard.vocab_size, parties, self._exchange, rows_of(self._exchange))
        self._thread = threading.Thread(target=self._run, args=(call, peers), daemon=True)
        self._thread.start()

    def take(self, states: list[bytes]) -> bytes | list[bytes] | None:
        """Goes on with the states of all parties, to what this one hands in next, or None at its end."""
        self._states, self._handed = states, None
        self._go.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        return self._handed

    def stop(self) -> None:
        self._stopped = True
        self._go.release()
        self._thread.join()

    def _run(self, call: Call, peers: _native.PeersCalls) -> None:
        self._go.acquire()
        try:
            if not self._stopped:
                with torch.no_grad():  # which is a thread's own
                    self.found = call(peers)
        except BaseException as error:
            self._error = error
        self._paused.release()

    def _exchange(self, own: bytes | list[bytes]) -> list[bytes]:
        self._handed = own
        self._paused.release()
        self._go.acquire()
        if self._stopped:
            raise _Stopped
        return self._states
