"""usage: parallel_traffic.py [RANKS...]

What a rank of isologit.parallel receives per row, the mean of all, and in how many collectives, with so many ranks as
processes of this machine (by default 8, 16, 32 and 64): a vocabulary of 256 000, H = 4096, bf16, 16 rows more than 16.
The ranks' rows of the weight are the same memory; a bias of their own makes their logits differ.
"""

import datetime
import json
import os
import statistics
import sys
import tempfile

import torch
import torch.distributed as dist

from isologit import parallel
from isologit.parallel import _exchange

VOCAB, SIZE, ROWS = 256_000, 4096, 16


def count(rank):
    """Of this process's collectives what each received."""
    received = []
    all_gather, all_to_all = _exchange.Exchange._all_gather, _exchange.Exchange._all_to_all

    def gather(self, own, size):
        received.append(size * (self.size - 1))
        return all_gather(self, own, size)

    def scatter(self, own, sizes):
        received.append(sum(sizes) - sizes[rank])
        return all_to_all(self, own, sizes)

    _exchange.Exchange._all_gather, _exchange.Exchange._all_to_all = gather, scatter
    return received


def calls(weight, bias):
    own = {"vocab_size": VOCAB, "bias": bias, "threads": 1}

    def backward(gradients):
        def call(hidden, ids):
            leaf = hidden.clone().requires_grad_()
            found = parallel.linear_logprobs(leaf, weight, ids, gradients=gradients, arithmetic="fast", **own).logprobs
            return found.sum().backward

        return call

    def sample(hidden, ids):
        return parallel.sample(hidden, weight, seed=1, sequence_id=torch.arange(len(ids)), position=0, **own)

    now = {
        "logprobs": lambda h, ids: parallel.linear_logprobs(h, weight, ids, **own),
        "top-20": lambda h, ids: parallel.score(h, weight, outputs=(), top_k=20, **own),
        "sample": sample,
    }
    for name, call in now.items():
        yield name, lambda h, ids, call=call: lambda: call(h, ids)
    yield "backward, fast", backward("fast")
    yield "backward, exact", backward("exact")


def work(rank, ranks, folder, base):
    torch.set_num_threads(1)
    minutes = datetime.timedelta(minutes=30)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=minutes)
    received, found = count(rank), {}
    rows = VOCAB // ranks
    bias = torch.randn(rows, generator=torch.Generator().manual_seed(rank + 1))
    for name, prepare in calls(base[:rows], bias):
        totals = []
        for count_of_rows in (ROWS, 2 * ROWS):
            generator = torch.Generator().manual_seed(0)
            hidden = torch.randn(count_of_rows, SIZE, generator=generator).bfloat16()
            ids = torch.randint(0, VOCAB, (count_of_rows,), generator=generator)
            call = prepare(hidden, ids)
            del received[:]
            call()
            of_all = [None] * ranks
            dist.all_gather_object(of_all, sum(received))
            totals.append(statistics.mean(of_all))
        found[name] = ((totals[1] - totals[0]) / ROWS, len(received))
    if rank == 0:
        with open(f"{folder}/found", "w") as file:
            json.dump(found, file)


def run(ranks, base):
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(ranks):
            if os.fork() == 0:
                work(rank, ranks, folder, base)
                dist.barrier()
                os._exit(0)
        for _ in range(ranks):
            os.wait()
        with open(f"{folder}/found") as file:
            return json.load(file)


if __name__ == "__main__":
    sizes = [int(given) for given in sys.argv[1:]] or [8, 16, 32, 64]
    base = (0.02 * torch.randn(VOCAB // min(sizes), SIZE, generator=torch.Generator().manual_seed(0))).bfloat16()
    found = {ranks: run(ranks, base) for ranks in sizes}
    print("bytes received per row (collectives) " + "".join(f"{ranks:>16}" for ranks in sizes))
    for name in found[sizes[0]]:
        cells = [f"{found[ranks][name][0]:,.0f} ({found[ranks][name][1]})" for ranks in sizes]
        print(f"{name:37} " + "".join(f"{cell:>16}" for cell in cells))
