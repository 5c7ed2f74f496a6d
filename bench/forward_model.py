"""Tokens a second of a model of Transformers, stock and with isologit's body: prefill, decode and a training step.

Random weights in the shape of Qwen3-0.6B with a few layers; the head is left out, and what is told is of the layers
alone. The two take turns, so that both see the same machine. Run it where isologit and transformers are installed
(5.24: the outputs of 5.19 have no `cache`):
python bench/forward_model.py [--layers N] [--tokens N] [--decoded N] [--batch N] [--rounds N]
"""

import argparse
import statistics
import time
import warnings

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from isologit import hf

SIZES = {
    "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip


def model_of(layers: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=layers, **SIZES)).to(torch.bfloat16).eval()


def prefill(model: Qwen3ForCausalLM, ids: torch.Tensor, _: int) -> int:
    with torch.no_grad():
        model.base_model(ids, use_cache=False)
    return ids.numel()


class Decode:
    """Tokens after a prompt, which is not timed."""

    def __init__(self) -> None:
        self.caches: dict[int, object] = {}

    def prepare(self, model: Qwen3ForCausalLM, ids: torch.Tensor) -> None:
        with torch.no_grad():
            self.caches[id(model)] = model.base_model(ids, use_cache=True).cache

    def __call__(self, model: Qwen3ForCausalLM, ids: torch.Tensor, count: int) -> int:
        cache = self.caches[id(model)]
        with torch.no_grad():
            for place in range(count):
                out = model.base_model(ids[:, place : place + 1], cache=cache, use_cache=True)
                cache = out.cache
        return ids.shape[0] * count


def train(model: Qwen3ForCausalLM, ids: torch.Tensor, _: int) -> int:
    model.zero_grad()
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    hidden.backward(torch.ones_like(hidden))
    return ids.numel()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("layers", 2), ("tokens", 512), ("decoded", 16), ("batch", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    models = {"stock": model_of(args.layers), "isologit": model_of(args.layers)}
    hf.install(models["isologit"], scope="model")
    ids = torch.randint(0, SIZES["vocab_size"], (args.batch, args.tokens))
    decode = Decode()
    print(f"{torch.get_num_threads()} threads, {args.layers} layers, batch {args.batch}, {args.tokens} tokens, bf16")
    for name, run in (("prefill", prefill), ("decode", decode), ("training step", train)):
        seconds: dict[str, list[float]] = {side: [] for side in models}
        tokens = 0
        for _ in range(args.rounds + 1):
            for side, model in models.items():
                if run is decode:
                    decode.prepare(model, ids)
                begin = time.perf_counter()
                tokens = run(model, ids, args.decoded)
                seconds[side].append(time.perf_counter() - begin)
        rates = {side: tokens / statistics.median(times[1:]) for side, times in seconds.items()}  # the first warms up
        told = ", ".join(f"{side} {rate:.1f}" for side, rate in rates.items())
        print(f"{name}: tokens a second {told}: {rates['stock'] / rates['isologit']:.2f} times the time of stock")


if __name__ == "__main__":
    main()
