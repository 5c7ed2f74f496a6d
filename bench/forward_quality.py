"""How near isologit's whole model is to the stock one: greedy text, and perplexity beside that of the model in f64.

The example model continues and scores its held-out text. In f64 all is f64 but the angles of the rotary embedding,
which are f32 as the model's code has them. Exits with 1 if the perplexity is further than 0.1 % from stock's, or from
that in f64. Run it where isologit and transformers are installed:
python bench/forward_quality.py [--windows N] [--tokens N]
"""

import argparse
import math
import os
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.utils import logging

from isologit import hf

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny-qwen3"
LENGTH, PROMPT = 256, 16  # tokens of a window, and of it those that greedy text begins with


def windows(most: int) -> Tensor:
    """[windows, LENGTH]: the end-of-text token and the next piece of the text."""
    ids = AutoTokenizer.from_pretrained(EXAMPLE)((EXAMPLE / "held-out.txt").read_text()).input_ids
    starts = range(0, len(ids) - LENGTH + 2, LENGTH - 1)
    return torch.tensor([[0, *ids[start : start + LENGTH - 1]] for start in starts][:most])


class WideNorm(Qwen3RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()


def models() -> dict[str, torch.nn.Module]:
    found = {
        name: AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.bfloat16).eval()
        for name in ("stock", "isologit", "f64")
    }
    hf.install(found["isologit"], scope="model")
    found["f64"].double()
    for module in found["f64"].modules():
        if isinstance(module, Qwen3RMSNorm):
            module.__class__ = WideNorm
    return found


def logits_of(model: torch.nn.Module, ids: Tensor) -> Tensor:
    return torch.cat([model(part).logits[:, :-1].double() for part in ids.split(8)])


def perplexity(logits: Tensor, ids: Tensor) -> float:
    return math.exp(-float(logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()))


def continued(model: torch.nn.Module, prompts: Tensor, tokens: int, batch: int) -> Tensor:
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return torch.cat([model.generate(part, **options)[:, PROMPT:] for part in prompts.split(batch)])


def compare_texts(what: str, a: Tensor, b: Tensor) -> None:
    same = a == b
    before = same.int().cumprod(1).sum()  # the first that differs
    print(
        f"greedy text, {what}: {int(same.all(1).sum())} of {len(a)} texts are the same, "
        f"{100 * before / same.numel():.1f} % of the tokens lie before a difference"
    )


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=10**9)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    logging.disable_progress_bar()
    ids, sides = windows(args.windows), models()
    perplexities, greedy = {}, {}
    for name, model in sides.items():
        logits = logits_of(model, ids)
        perplexities[name], greedy[name] = perplexity(logits, ids), logits.argmax(-1)
        print(f"perplexity of {ids[:, 1:].numel():,} tokens, {name}: {perplexities[name]:.4f}")
    for name, other in (("isologit", "stock"), ("isologit", "f64"), ("stock", "f64")):
        same = greedy[name] == greedy[other]
        print(f"likeliest next token, {name} as {other}: {int(same.sum()):,} of {same.numel():,}")
    texts = {name: continued(sides[name], ids[:, :PROMPT], args.tokens, 16) for name in ("isologit", "stock")}
    compare_texts("isologit and stock", texts["isologit"], texts["stock"])
    for name in ("isologit", "stock"):
        one = continued(sides[name], ids[:, :PROMPT], args.tokens, 1)
        compare_texts(f"{name} in batches of 16 and alone", texts[name], one)
    off = [abs(perplexities["isologit"] / perplexities[name] - 1) for name in ("stock", "f64")]
    print(f"the perplexity is {100 * off[0]:.3f} % from stock's, {100 * off[1]:.3f} % from that in f64")
    return int(max(off) > 1e-3)


if __name__ == "__main__":
    raise SystemExit(main())
