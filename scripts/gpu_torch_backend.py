#!/usr/bin/env python3
"""usage: gpu_torch_backend.py [--device DEVICE]

Compares the torch backend on a device (the default is the accelerator that torch sees) with the library on the
CPU, bit for bit: logits against scripts/gpu_digests.json, scores, losses, given logits and samples, the operators of
the forward pass and, where Transformers is installed, all of the example model; fast gradients with exact ones, within
rounding. Needs the package isologit. `--device cpu` forces the backend on the CPU.
scripts/gpu_check runs this too.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
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
        "plain score of ids": lambda k, h, w, i, _: plain_score(k, h, w, (i[:, None] + 7 * i[:3]) % 3001),
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


def check_forward(device: str) -> dict[str, bool]:
    from isologit import forward

    x, other, weight = (matrix(*shape, "cpu", BF16, "normal") for shape in ((64, 256, 1), (64, 256, 2), (96, 256, 3)))
    q, keys, values = (matrix(128, 256, seed, "cpu", BF16, "normal").view(128, 4, 64) for seed in (4, 5, 6))
    positions, frequencies = torch.arange(128) ** 4, forward.rotary_frequencies(1e6, 64)
    dy = matrix(64, 256, 7, "cpu", BF16, "normal")
    verbs = {
        "linear": lambda k, x, w, *_: forward.linear(x, w, kernel=k),
        "rms_norm": lambda k, x, w, *_: forward.rms_norm(x, w[0], 1e-6, kernel=k),
        "layer_norm": lambda k, x, w, *_: forward.layer_norm(x, w[0], w[1], 1e-5, kernel=k),
        "silu": lambda k, x, _, u, *__: forward.gate(x, u, kernel=k),
        "gelu_tanh": lambda k, x, _, u, *__: forward.gate(x, u, kind="gelu_tanh", kernel=k),
        "residual": lambda k, x, _, u, *__: forward.residual(x, u, x * 2**-9, multiplier=0.3, kernel=k),
        "rotary": lambda k, *given: forward.rotary(given[3], positions, frequencies, kernel=k),
        "attention": lambda k, *given: forward.attention(*given[3:6], scale=0.125, window=70, kernel=k),
        "dx of a linear": lambda k, x, w, _, *__: _dx(lambda x: forward.linear(x, w, kernel=k), x, dy[:, :96]),
    }
    found = {}
    for name, verb in verbs.items():
        operands = (x, weight, other, q, keys, values)
        found[name] = same(verb("torch", *(x.to(device) for x in operands)), verb("", *operands))
    return found | check_model(device)


def _dx(function: Callable, x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x, dy.to(x.device))[0]


def check_model(device: str) -> dict[str, bool]:
    """The example's model, of which head and body are isologit's: prefill, and token by token."""
    if importlib.util.find_spec("transformers") is None:
        print("the model: Transformers is not installed", flush=True)
        return {}
    from transformers import AutoModelForCausalLM

    import isologit

    model = AutoModelForCausalLM.from_pretrained(ROOT.parent / "examples" / "tiny-qwen3", dtype=BF16).eval()
    isologit.hf.install(model, scope="model")
    ids = torch.randint(3, 1000, (4, 96), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(ids).logits
        model.to(device)
        found = {"the model: prefill": same(model(ids.to(device)).logits, wanted)}
        prompts = ids[:, :32].to(device)
        options = {"attention_mask": torch.ones_like(prompts), "pad_token_id": 0, "max_new_tokens": 16}
        made = model.generate(prompts, do_sample=False, **options)
        again = model(made).logits[:, 31:-1].argmax(-1)
        found["the model: greedy tokens are those of prefill"] = torch.equal(again, made[:, 32:])
    return found


def check(device: str, cases: dict) -> bool:
    right = True
    every = (
        lambda: check_logits(device, cases),
        lambda: check_verbs(device),
        lambda: check_gradients(device),
        lambda: check_forward(device),
    )
    for checks in every:
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
