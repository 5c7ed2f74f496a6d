"""usage: parallel.py [RANKS [VOCAB [SIZE]]]

Logprobs of a head split over ranks (gloo, loopback, a thread each): isologit.parallel beside what engines do, which is
to multiply by the own rows, gather the logits and take a log-softmax. Time of a call by number of rows, the median of
five.
"""

import datetime
import os
import statistics
import sys
import tempfile
import time

import torch
import torch.distributed as dist

from isologit import parallel

RANKS, VOCAB, SIZE = (int(given) for given in [*sys.argv[1:], *("2", "32000", "1024")[len(sys.argv) - 1 :]])


def gathered(hidden, weight, ids):
    own = hidden @ weight.T
    parts = [torch.empty_like(own) for _ in range(RANKS)]
    dist.all_gather(parts, own)
    return torch.log_softmax(torch.cat(parts, 1).float(), -1).gather(1, ids[:, None])


def ours(arithmetic):
    def call(hidden, weight, ids):
        return parallel.linear_logprobs(
            hidden, weight, ids, vocab_size=VOCAB, arithmetic=arithmetic, threads=1
        ).logprobs

    return call


def median(call, *arguments):
    seconds = []
    for _ in range(6):
        dist.barrier()
        began = time.perf_counter()
        call(*arguments)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def work(rank, folder):
    torch.set_num_threads(1)
    minutes = datetime.timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=minutes)
    generator = torch.Generator().manual_seed(rank)
    weight = (0.05 * torch.randn(VOCAB // RANKS, SIZE, generator=generator)).bfloat16()
    if rank == 0:
        print(f"{RANKS} ranks, a vocabulary of {VOCAB}, H = {SIZE}, bf16; logits gathered: {2 * VOCAB} bytes a row")
        print("rows  gathered logits  exact  fast")
    for rows in (1, 16, 128, 1024):
        generator = torch.Generator().manual_seed(100)
        hidden = torch.randn(rows, SIZE, generator=generator).bfloat16()
        ids = torch.randint(0, VOCAB, (rows,), generator=generator)
        times = [median(call, hidden, weight, ids) for call in (gathered, ours("exact"), ours("fast"))]
        if rank == 0:
            print(f"{rows:4d}  {'  '.join(f'{1000 * t:.1f} ms' for t in times)}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(RANKS):
            if os.fork() == 0:
                work(number, scratch)
                os._exit(0)
        for _ in range(RANKS):
            os.wait()
