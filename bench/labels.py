"""A training step of a model of Transformers that is called with labels: milliseconds and MiB, stock, with isologit's
head and logits that are made, and with its loss of hidden states.

One layer in the shape of Qwen3-0.6B with its vocabulary, random weights. Each in processes of its own, in turns:
python bench/labels.py [--tokens N] [--rounds N]
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("stock bf16", "stock, f32 logits", "isologit, logits made", "isologit")


def step(way: str, tokens: int) -> dict[str, float]:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.loss.loss_utils import ForCausalLMLoss

    from isologit import hf

    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8}
    config = Qwen3Config(num_hidden_layers=1, vocab_size=151936, head_dim=128, tie_word_embeddings=True, **sizes)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    if way.startswith("isologit"):
        hf.install(model)
    elif way != WAYS[0]:
        head = model.lm_head
        head.forward = lambda x: torch.nn.functional.linear(x.float(), head.weight.float())
    ids = torch.randint(0, 151936, (1, tokens), generator=torch.Generator().manual_seed(1))
    made = way != WAYS[-1]

    def run() -> None:
        model.zero_grad()
        loss = ForCausalLMLoss(model(ids).logits, ids, 151936) if made else model(ids, labels=ids).loss
        loss.backward()

    model(ids[:, :2], labels=ids[:, :2]).loss.backward()
    run()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kib("VmRSS")
    started = time.perf_counter()
    run()
    elapsed = time.perf_counter() - started
    return {"ms": 1e3 * elapsed, "MiB": (kib("VmHWM") - before) / 1024}


def kib(name: str) -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(step(options.way, options.tokens)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--tokens", str(options.tokens), "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{options.tokens} tokens, V=151936, H=1024; MiB beyond the model, 297 of them its gradients of the head")
    for way, results in found.items():
        medians = [statistics.median(result[name] for result in results) for name in ("ms", "MiB")]
        print(f"{way:24} {medians[0]:7.0f} ms {medians[1]:7.0f} MiB")


if __name__ == "__main__":
    main()
