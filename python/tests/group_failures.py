"""What ranks of isologit.parallel must refuse, and ranks that fail: scenarios of groups.py."""

import os
import signal
import time

import torch
from group_results import DRAWS, HIDDEN, IDS, VOCAB, WEIGHT
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import isologit
from isologit import parallel
from isologit.parallel import _exchange


def another_a(rank, size):
    own = slice(rank * 10, rank * 10 + 10)
    lora = torch.full((2, WEIGHT.shape[1]), 1.0 + (rank == 1)), torch.ones(10, 2), 1.0
    parallel.linear_logprobs(HIDDEN, WEIGHT[own], IDS, lora=lora)


def b_of_other_rows(rank, size):
    lora = torch.ones(2, WEIGHT.shape[1]), torch.ones(10 + (rank == 1), 2), 1.0
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS, lora=lora)


def a_block_fails(rank, size):
    """The second of a rank, after the first has handed in its state."""
    weights = [WEIGHT[rank * 10 : rank * 10 + 4], WEIGHT[rank * 10 + 4 : rank * 10 + 10]]
    run, failing = isologit._score.run, rank == 1

    def one(args, peers):
        if failing and args.head.weight.shape[0] == 6:
            raise MemoryError("no memory")
        return run(args, peers)

    isologit._score.run = one
    parallel.linear_logprobs(HIDDEN, weights, IDS)


def sharded_on_h(rank, size):
    mesh = init_device_mesh("cpu", (size,))
    parallel.linear_logprobs(HIDDEN, distribute_tensor(WEIGHT, mesh, [Shard(1)]), IDS)


def another_shape(rank, size):
    weight = WEIGHT[rank * 10 : rank * 10 + 10, : 11 if rank == 1 else 12]
    parallel.linear_logprobs(HIDDEN, weight, IDS)


def split_on_h(rank, size):
    parallel.linear_logprobs(HIDDEN, WEIGHT[:, rank * 4 : rank * 4 + 4], IDS)


def overlap(rank, size):
    first = (0, 9, 20)[rank]
    parallel.linear_logprobs(HIDDEN, WEIGHT[first : first + 10], IDS, first_id=first, vocab_size=VOCAB)


def another_cap(rank, size):
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS, softcap=30.0 + (rank == 2))


def another_hidden(rank, size):
    parallel.linear_logprobs(HIDDEN + (rank == 1), WEIGHT[rank * 10 : rank * 10 + 10], IDS)


def another_kernel(rank, size):
    kernel = "portable_fast" if rank == 0 else ""
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS, arithmetic="fast", kernel=kernel)


def another_call(rank, size):
    weight = WEIGHT[rank * 10 : rank * 10 + 10]
    if rank == 0:
        return parallel.sample(HIDDEN, weight, vocab_size=VOCAB, **DRAWS)
    return parallel.linear_logprobs(HIDDEN, weight, IDS, vocab_size=VOCAB)


def another_upstream(rank, size):
    hidden = HIDDEN.clone().requires_grad_()
    got = parallel.linear_logprobs(hidden, WEIGHT[rank * 10 : rank * 10 + 10], IDS)
    (got.logprobs.sum() * (2 if rank == 1 else 1)).backward()


def fails_within(rank, size):
    """A rank that fails between two exchanges."""
    if rank == 1:
        isologit._score.run = lambda *_: (_ for _ in ()).throw(MemoryError("no memory"))
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS)


def killed(rank, size):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS)


def killed_within(rank, size):
    if rank == 1:
        isologit._score.run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS)


def killed_in_backward(rank, size):
    """When the ranks hand the sums of dhidden to those that have the rows."""
    hidden = HIDDEN.clone().requires_grad_()
    got = parallel.linear_logprobs(hidden, WEIGHT[rank * 10 : rank * 10 + 10], IDS)
    if rank == 1:
        _exchange.Exchange._all_to_all = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    got.logprobs.sum().backward()


def lags_too_long(rank, size):
    if rank == 1:
        time.sleep(4)
    parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS)
