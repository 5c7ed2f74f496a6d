#!/usr/bin/env python3
"""usage: gpu_torch_backend.py [--device DEVICE]

Compares the torch backend on a device (the default is the accelerator that torch sees) with the library on the
CPU, bit for bit: logits against scripts/gpu_digests.json, scores, losses, given logits and samples; fast gradients
with exact ones, within rounding. Needs the package isologit. `--device cpu` forces the backend on the CPU.
scripts/gpu_check runs this too.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from gpu_inputs import BF16, CASES, F16, F32, SMALL, checksums, matrix, operands  # noqa: E402

OUTPUTS = ["logprobs", "lse", "entropy", "argmax", "rank", "raw_logprobs", "sum_p2", "log_kept", "mean_logits"]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.detach().cpu(), other.detach().cpu()
    bits = {F32: torch.int32, BF16: torch.int16, F16: torch.int16}.get(one.dtype, one.dtype)
    return torch.equal(one.view(bits), other.view(bits))


def check_logits(device: str, cases: dict) -> dict[str, bool]:
    """Cases by name; against what the CPU recorded."""
    import isologit

    digests, found = json.loads((ROOT / "gpu_digests.json").read_text()), {}
    for name, case in cases.items():
        hidden, weight, bias = operands(case, device)
        logits = isologit.logits(hidden, weight, bias=bias, kernel="torch")
        found[f"logits, {name}"] = checksums(logits) == digests[name]
    return found


def check_verbs(device: str) -> dict[str, bool]:
    import isologit

    found = {}
    steps = {"softcap": 30.0, "scale": 0.05, "temperature": 0.7}
    keys = {"seed": 1, "sequence_id": 2, "position": 3, "temperature": 0.7, "top_k": 50, "top_p": 0.9}
    every = {"outputs": OUTPUTS, "top_k": 5}
    plain = ["logprobs", "lse", "entropy", "sum_p2", "argmax"]

    def plain_score(kernel, hidden, weight, ids, **options):
        kernel = kernel if hidden.is_cpu else ""
        found = isologit.score(hidden, weight, ids, outputs=plain, kernel=kernel, **options)
        return [getattr(found, name) for name in plain]

    verbs = {
        "score": lambda k, h, w, i, _: isologit.score(h, w, i, kernel=k, **every, **steps)[:-1],
        # By the CUDA library, where it lies beside the package.
        "plain score": lambda k, h, w, i, _: plain_score(k, h, w, i, **steps),
        "plain score of ids": lambda k, h, w, i, _: plain_score(k, h, w, i[:, None] + 7 * i[:3]),
        "a mask": lambda k, h, w, i, m: isologit.score(h, w, i, mask=m, kernel=k, **every)[:-1],
        "bf16": lambda k, h, w, *_: [isologit.logits(h, w, dtype=BF16, kernel=k, **steps)],
        "f16": lambda k, h, w, *_: [isologit.logits(h, w, dtype=F16, kernel=k, divide=3.0)],
        "loss": lambda k, h, w, i, _: [isologit.linear_cross_entropy(h, w, i, z_loss=0.1, kernel=k)],
        "sample": lambda k, h, w, _, m: isologit.sample(h, w, mask=m, kernel=k, **keys)[:-1],
        "log_softmax": lambda k, h, w, *_: [isologit.log_softmax(w, temperature=0.3, kernel=k)],
        "entropy_of_logits": lambda k, h, w, *_: [isologit.entropy_of_logits(w, kernel=k)],
    }
    for family in ("normal", "ties", "special"):
        weight, hidden = matrix(3001, 256, 1, "cpu", BF16, family), matrix(20, 256, 2, "cpu", BF16, family)
        ids = torch.arange(20) * 131
        mask = torch.arange(3001) % 3 != 0
        for name, verb in verbs.items():
            wanted = verb("", hidden, weight, ids, mask)
            got = verb("torch", *(x.to(device) for x in (hidden, weight, ids, mask)))
            found[f"{name}, {family}"] = all(same(a, b) for a, b in zip(got, wanted, strict=True))
    return found


def check_gradients(device: str) -> dict[str, bool]:
    import isologit

    weight, hidden = matrix(3001, 256, 1, "cpu", F32, "normal"), matrix(40, 256, 2, "cpu", F32, "normal")
    ids, found = torch.arange(40) * 71, {}

    def gradients(device: str, kernel: str, how: str, rows: slice = slice(None)) -> list[torch.Tensor]:
        leaves = [x.to(device).requires_grad_() for x in (hidden[rows], weight)]
        options = {"scale": 0.05, "return_entropy": True, "gradients": how, "kernel": kernel}
        scored = isologit.linear_logprobs(*leaves, ids[rows].to(device), **options)
        return torch.autograd.grad(scored.logprobs.sum() + scored.entropy.sum(), leaves)

    wanted, names = gradients("cpu", "", "exact"), ("dhidden", "dweight")
    # Without a name by the CUDA library, where it lies beside the package.
    for kernel, near_enough in {"torch": 2.0**-20, **({} if device == "cpu" else {"": 2.0**-17})}.items():
        by, (exact, fast) = kernel or "default", (gradients(device, kernel, how) for how in ("exact", "fast"))
        for name, one, right, near in zip(names, exact, wanted, fast, strict=True):
            found[f"{name}, exact, {by}"] = same(one, right)
            found[f"{name}, fast, {by}"] = bool((near.cpu() - right).abs().max() < near_enough * right.abs().max())
        some = gradients(device, kernel, "fast", slice(7, 12))[0]
        found[f"dhidden of a row does not depend on the others, {by}"] = same(some, fast[0][7:12])
    return found


def check(device: str, cases: dict) -> bool:
    right = True
    for checks in (lambda: check_logits(device, cases), lambda: check_verbs(device), lambda: check_gradients(device)):
        started, found = time.time(), checks()
        wrong = [name for name, is_right in found.items() if not is_right]
        right = right and not wrong
        told = f"WRONG: {'; '.join(wrong)}" if wrong else "all right"
        print(f"torch backend on {device}: {len(found)} checks, {time.time() - started:.1f} s, {told}", flush=True)
    return right


_FEW = SMALL | {name: CASES[name] for name in ("special", "f16 ties", "f32 wild", "bf16 under f32")}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="")
    device = parser.parse_args().device or str(torch.accelerator.current_accelerator())
    sys.exit(0 if check(device, _FEW) else 1)
