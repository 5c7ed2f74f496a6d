"""The calls of a rank whose rows lie in several blocks: each block is a party, and they take turns.

A block's call runs on a thread of its own until it hands in a state; then the next block's does. So each has all of the
library's threads, and one state a block goes to the other ranks at once.
"""

import struct
import threading
from collections.abc import Callable
from typing import Any

import torch

from isologit import _native
from isologit.parallel._exchange import Exchange
from isologit.parallel._shard import Shard

Call = Callable[[_native.PeersCalls], Any]


def run(exchange: Exchange, calls: list[Call], shards: list[Shard], parties: int) -> list[Any]:
    """What each block's call returns; parties: the blocks of all ranks."""
    if parties == exchange.size:
        return [calls[0](exchange.peers(shards[0].first_id, shards[0].vocab_size))]
    turns = [_Turn(call, shard, parties) for call, shard in zip(calls, shards, strict=True)]
    try:
        states: list[bytes] = []
        while True:
            handed = [turn.take(states) for turn in turns]
            if None in handed:
                assert not any(handed), "blocks of one call exchange states equally often"
                return [turn.found for turn in turns]
            states = [state for ranks in exchange.states(_packed(handed)) for state in _unpacked(ranks)]
    finally:
        for turn in turns:
            turn.stop()


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

    def __init__(self, call: Call, shard: Shard, parties: int) -> None:
        self.found: Any = None
        self._error: BaseException | None = None
        self._states: list[bytes] = []
        self._handed: bytes | None = None
        self._stopped = False
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        peers = _native.PeersCalls(shard.first_id, shard.vocab_size, parties, self._gather)
        self._thread = threading.Thread(target=self._run, args=(call, peers), daemon=True)
        self._thread.start()

    def take(self, states: list[bytes]) -> bytes | None:
        """Goes on with the states of all parties, to the next state of this one, or None at its end."""
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

    def _gather(self, own: bytes) -> list[bytes]:
        self._handed = own
        self._paused.release()
        self._go.acquire()
        if self._stopped:
            raise _Stopped
        return self._states
