"""What an f32 head leaves: errors in nats, and logprobs that depend on the batch."""

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import isologit
from isologit.testing._data import normal


def bf16(hidden: Tensor, weight: Tensor) -> Tensor:
    return F.linear(hidden, weight).float()


def f32(hidden: Tensor, weight: Tensor) -> Tensor:
    return F.linear(hidden.float(), weight.float())


def logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


def report(name: str, hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    right = isologit.linear_logprobs(hidden, weight, ids).logprobs
    exact = isologit.logits(hidden, weight)
    print(f"{name}, {len(hidden)} rows, H {hidden.shape[1]}")
    for kind, head in (("bf16", bf16), ("f32", f32)):
        logits = head(hidden, weight)
        found = logprobs(logits, ids)
        off = (found.double() - right.double()).abs()
        alone = torch.cat([logprobs(head(row[None], weight), one[None]) for row, one in zip(hidden, ids, strict=True)])
        flips = int((logits.argmax(-1) != exact.argmax(-1)).sum())
        certain = right > -1e-3
        relative = float((off / right.abs().double())[certain].max()) if certain.any() else 0.0
        print(
            f"  {kind:4}  mean {float(off.mean()):.0e}  max {float(off.max()):.0e}  right {int((off == 0).sum())}  "
            f"changed by the batch {int((found != alone).sum())}  greedy flips {flips}  "
            f"of p > 0.999, relative {relative:.0e}"
        )


example = load_file("examples/captured/tiny-qwen3.safetensors")
weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"]
rows = (example["token_ids"] >= 0).nonzero()[:512, 0]
report("the example", example["hidden_states"][rows], weight, example["token_ids"][rows])

size, vocab = 4096, 2048
wide = torch.tensor(normal(11, 64, size))
weight = (torch.tensor(normal(12, vocab, size)) / 64).bfloat16()
ids = (wide.bfloat16().double() @ weight.double().T).argmax(-1)
ids[1::2] = torch.arange(len(ids[1::2]))
report("normal", wide.bfloat16(), weight, ids)
report("sharp", (16 * wide).bfloat16(), weight, ids)
