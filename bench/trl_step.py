"""Seconds a step of TRL's GRPOTrainer, of the processors and of the clock, with TRL's fused head and with isologit's.

Random weights, one layer and the vocabulary of Qwen3. The heads take turns step by step, so that both see the same
machine. Run it where isologit and trl are installed: python bench/trl_step.py [--rounds N] [--hidden-size N]
"""

import argparse
import statistics
import tempfile
import time
import warnings

import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from isologit.integrations import trl

SIZES = {
    "vocab_size": 151936, "num_hidden_layers": 1, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0,
}  # fmt: skip


class TakeTurns(TrainerCallback):
    """Even steps with TRL's head, odd ones with isologit's, whose gradients are fast, then exact ones."""

    def __init__(self) -> None:
        names = ("TRL", "isologit, fast gradients", "isologit, exact")
        self.seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        self.trainer = None
        self.turn = 0

    def on_step_begin(self, *_: object, **__: object) -> None:
        name = list(self.seconds)[self.turn % 3]
        if name != "TRL":
            trl.install(self.trainer, gradients="exact" if "exact" in name else "fast")
        self.begin = time.process_time(), time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        name = list(self.seconds)[self.turn % 3]
        processors, clock = self.begin
        self.seconds[name].append((time.process_time() - processors, time.perf_counter() - clock))
        if name != "TRL":
            trl.uninstall(self.trainer)
        self.turn += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--hidden-size", type=int, default=1024)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    turns = TakeTurns()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder, max_steps=3 * (args.rounds + 1), per_device_train_batch_size=8, num_generations=8,
            max_completion_length=args.tokens, use_cpu=True, bf16=True, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        turns.trainer = GRPOTrainer(
            model=Qwen3ForCausalLM(Qwen3Config(**SIZES, hidden_size=args.hidden_size)),
            args=config,
            reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
            train_dataset=Dataset.from_dict({"prompt": ["In the beginning"] * 64}),
            processing_class=AutoTokenizer.from_pretrained("examples/tiny-qwen3"),
            callbacks=[turns],
        )
        turns.trainer.train()
    for name, seconds in turns.seconds.items():
        processors, clock = map(statistics.median, zip(*seconds[1:], strict=True))
        print(f"{name:26} {processors:.2f} s a step of the processors, {clock:.2f} s of the clock")


main()
