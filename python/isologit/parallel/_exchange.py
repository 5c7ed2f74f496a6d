"""What ranks tell one another during a call: bytes, over the collectives of a torch.distributed group."""

import contextlib
import enum
import itertools
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from isologit import _native

# A message: this header, then `size` bytes. What fits goes with the header, the rest in a second collective.
_HEADER = struct.Struct("<4sBHQ")  # magic, kind, number of the message within the call, size
_MAGIC = b"ILP1"
_FIRST = 512


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """Those of its elements, whatever its layout and wherever it lies."""
    flat = tensor.detach().cpu().reshape(-1)
    flat = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy()


class _Kind(enum.IntEnum):
    FACTS = 1
    STATE = 2
    DONE = 3
    FAILED = 4


class ParallelError(RuntimeError):
    """A call of several ranks that cannot go on: a rank died, failed, or called for something else."""


class _Alone:
    """The group of one process that needs no process group."""

    def __repr__(self) -> str:
        return "isologit.parallel.ALONE"


ALONE = _Alone()


def _device_for(group: Any, device: torch.device) -> torch.device:
    """Where a group's collectives take tensors: on the CPU if they do, as gloo's; else where the call's tensors are,
    or, if they do not take these, on the process's current device of a kind that they take. NCCL takes CUDA's."""
    kinds = [pair.partition(":")[0] for pair in str(dist.get_backend_config(group)).split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    if device.type in kinds:
        return device
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())


class Exchange:
    """One call that all ranks of a group make, as a context. It ends when all have ended it: the others learn what went
    wrong here, and this rank what went wrong elsewhere. device: where the call's tensors are."""

    def __init__(self, what: str, group: Any, device: torch.device) -> None:
        self.what, self.group = what, group
        self._number, self._over = 0, False
        if group is ALONE:
            self.rank, self.size = 0, 1
            return
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                f"{what}: there is no process group; expected torch.distributed.init_process_group() before, or "
                "group=isologit.parallel.ALONE for a vocabulary that is all in this process"
            )
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError(f"{what}: this rank is not in the group; expected the group's ranks alone to call")
        self._device = _device_for(group, device)

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._over:
            return
        if error is None:
            self._gather(_Kind.DONE, b"")
            return
        told = f"{type(error).__name__}: {error}".encode()[: _FIRST - _HEADER.size]
        try:
            self._collect(_Kind.FAILED, told)
        except Exception:  # what is raised here already is the cause
            return

    def agree(self, **facts: Any) -> list[dict[str, Any]]:
        """Of each rank its facts; all but those named own_... must be equal."""
        own = {"the call": self.what, **facts}
        everyone = [dict(json.loads(state)) for state in self._gather(_Kind.FACTS, json.dumps(own).encode())]
        first = everyone[0]
        for rank, theirs in enumerate(everyone):
            for name in (*first, *theirs):
                if not name.startswith("own_") and theirs.get(name) != first.get(name):
                    self.fail(
                        f"{name} is {theirs.get(name)!r} on rank {rank} and {first.get(name)!r} on rank 0; expected "
                        "all ranks to make the same call with the same arguments, but for their own rows"
                    )
        return everyone

    def states(self, own: bytes) -> list[bytes]:
        return self._gather(_Kind.STATE, own)

    def scatter(self, own: list[bytes]) -> list[bytes]:
        """own[r] goes to rank r; what each rank has for this one."""
        sizes = self.states(struct.pack(f"<{self.size}Q", *map(len, own)))
        wanted = [struct.unpack_from("<Q", theirs, 8 * self.rank)[0] for theirs in sizes]
        with self._with_the_others():
            received = self._all_to_all(own, wanted)
        self._number += 1
        return received

    def peers(self, first_id: int, vocab_size: int, own_rows: _native.OwnRows | None = None) -> _native.PeersCalls:
        return _native.PeersCalls(first_id, vocab_size, self.size, self.states, own_rows)

    def tensors(self, own: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """The rows of all ranks, one after the other, where own is; counts[r] of rank r."""
        parts = self.states(bytes_of(own).tobytes())
        whole = torch.frombuffer(bytearray(b"".join(parts)) or bytearray(8), dtype=own.dtype)
        shape = (sum(counts), *own.shape[1:])
        return whole[: torch.Size(shape).numel()].reshape(shape).to(own.device)

    def fail(self, problem: str) -> None:
        """For what every rank sees alike."""
        self._over = True
        raise ParallelError(f"{self.what}: {problem}")

    def _gather(self, kind: _Kind, own: bytes) -> list[bytes]:
        """What each rank hands in, in the order of ranks. All fail where one of them has failed."""
        with self._with_the_others():
            messages = self._collect(kind, own)
        for rank, (magic, theirs, _, state) in enumerate(messages):
            if magic == _MAGIC and theirs == _Kind.FAILED:
                self.fail(f"rank {rank} failed: {state.decode(errors='replace')}")
        for rank, (magic, theirs, number, _) in enumerate(messages):
            if (magic, theirs, number) != (_MAGIC, kind, self._number % 2**16):
                self.fail(
                    f"rank {rank} sent something else than rank {self.rank} (message {self._number}, "
                    f"{kind.name.lower()}); expected all ranks to make the same call"
                )
        self._number += 1
        return [state for *_, state in messages]

    @contextlib.contextmanager
    def _with_the_others(self) -> Iterator[None]:
        """A collective, whose failure is told."""
        try:
            yield
        except RuntimeError as error:
            self._over = True
            raise ParallelError(
                f"{self.what}: rank {self.rank} of {self.size} could not exchange message {self._number} with the "
                f"others: {error}. A rank died, did not make this call, or was later than the group's time-out; there "
                "is no result, and the group may be of no more use"
            ) from error

    def _collect(self, kind: _Kind, own: bytes) -> list[tuple[bytes, int, int, bytes]]:
        message = _HEADER.pack(_MAGIC, kind, self._number % 2**16, len(own)) + own
        first = self._all_gather(message[:_FIRST], _FIRST)
        headers = [_HEADER.unpack_from(part) for part in first]
        most = max((size + _HEADER.size for magic, *_, size in headers if magic == _MAGIC), default=0)
        rest = self._all_gather(message[_FIRST:], most - _FIRST) if most > _FIRST else [b""] * self.size
        return [
            (magic, theirs, number, (head + tail)[_HEADER.size : _HEADER.size + size])
            for (magic, theirs, number, size), head, tail in zip(headers, first, rest, strict=True)
        ]

    def _all_gather(self, own: bytes, size: int) -> list[bytes]:
        if self.group is ALONE:
            return [own]
        sent = torch.zeros(size, dtype=torch.uint8)
        if own:
            sent[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        sent = sent.to(self._device)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent, group=self.group)
        return [one.cpu().numpy().tobytes() for one in received]

    def _all_to_all(self, own: list[bytes], sizes: list[int]) -> list[bytes]:
        if self.group is ALONE:
            return own
        sent = torch.frombuffer(bytearray(b"".join(own)), dtype=torch.uint8).to(self._device)
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(received, sent, sizes, list(map(len, own)), group=self.group)
        everything = received.cpu().numpy().tobytes()
        ends = itertools.accumulate(sizes)
        return [everything[end - size : end] for end, size in zip(ends, sizes, strict=True)]
