#!/usr/bin/env python3
"""usage: gpu_parallel.py [--device cpu]

Compares isologit.parallel over ranks that have a GPU each, as many as there are, over NCCL, and over two ranks that
share the first one, over gloo, with one process on the CPU: scores, draws, given logits and exact gradients bit for
bit, fast gradients within rounding. Needs the package isologit. `--device cpu`: two ranks on the CPU.
scripts/gpu_check runs this too.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpu_inputs import BF16, matrix  # noqa: E402
from gpu_torch_backend import OUTPUTS, same  # noqa: E402

VOCAB, SIZE, ROWS = 3001, 256, 20
STEPS = {"softcap": 30.0, "scale": 0.05, "temperature": 0.7}
DRAWS = {"seed": 1, "sequence_id": 2, "position": 3, "temperature": 0.7, "top_p": 0.9}


def results(functions, family: str, device: torch.device, ids_of_rank: slice, **over) -> dict[str, torch.Tensor]:
    """By name; those of the weight's rows are of this rank's alone."""
    weight, hidden = matrix(VOCAB, SIZE, 1, "cpu", BF16, family), matrix(ROWS, SIZE, 2, "cpu", BF16, family)
    mask, ids = (torch.arange(VOCAB) % 3 != 0).to(device), (torch.arange(ROWS) * 131).to(device)
    hidden, own = hidden.to(device), weight[ids_of_rank].to(device)
    scores = functions.score(hidden, own, ids, outputs=OUTPUTS, top_k=5, mask=mask, **STEPS, **over)._asdict()
    found = {name: value for name, value in scores.items() if value is not None and name != "counts"}
    drawn = functions.sample(hidden, own, mask=mask, **DRAWS, **over)
    found |= {"ids drawn": drawn.ids, "logprobs drawn": drawn.cut_logprobs}
    logits = matrix(ROWS, VOCAB, 3, "cpu", BF16, "normal")[:, ids_of_rank].to(device)
    found["entropy of logits"] = functions.entropy_of_logits(logits, temperature=0.3, **over)
    if family == "special":
        return found
    for how in ("exact", "fast"):
        leaves = [x.clone().requires_grad_() for x in (hidden, own)]
        scored = functions.linear_logprobs(*leaves, ids, return_entropy=True, gradients=how, scale=0.05, **over)
        dhidden, dweight = torch.autograd.grad(scored.logprobs.sum() + scored.entropy.sum(), leaves)
        found |= {f"{how} dhidden": dhidden, f"{how} dweight": dweight}
    return found


def work(rank: int, size: int, backend: str, device: torch.device, folder: str) -> None:
    import isologit
    from isologit import parallel

    if device.type == "cuda":
        device = torch.device("cuda", rank if backend == "nccl" else 0)
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=size)
    own, wrong, count = slice(VOCAB * rank // size, VOCAB * (rank + 1) // size), [], 0
    for family in ("normal", "ties", "special"):
        right = results(isologit, family, torch.device("cpu"), slice(0, VOCAB))
        for name, got in results(parallel, family, device, own, first_id=own.start, vocab_size=VOCAB).items():
            expected = right[name][own] if name.endswith("dweight") else right[name]
            near = name.startswith("fast") and torch.allclose(
                got.cpu().float(), expected.float(), rtol=2**-7, atol=2**-10
            )
            wrong += [] if near or (got.device == device and same(got, expected)) else [f"{name}, {family}"]
            count += 1
    print(
        f"rank {rank} of {size} on {device} over {backend}: {count} checks, {'; '.join(wrong) or 'all right'}",
        flush=True,
    )
    dist.barrier()
    dist.destroy_process_group()
    if wrong:
        raise SystemExit(1)


def check(device: str) -> bool:
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    right = True
    for size, backend in ((gpus, "nccl"), (2, "gloo")):
        if size == 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                arguments = (size, backend, torch.device(device), folder)
                torch.multiprocessing.spawn(work, arguments, nprocs=size)
            except torch.multiprocessing.ProcessExitedException as error:
                print(error, flush=True)
                right = False
    return right


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    sys.exit(0 if check(parser.parse_args().device) else 1)
