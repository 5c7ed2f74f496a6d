"""GRPO on examples/tiny-qwen3: what the head adds to the mismatch between rollout and trainer.

A run for each rollout head. The body is bf16 in all of them and the trainer's head is isologit; only the head that
samples and that gives the rollout's logprobs differs:

    bf16      logits rounded to bf16, as most engines make them
    f32       hidden and weight widened to f32, logits by an f32 matmul
    isologit  isologit.logits and isologit.linear_logprobs

The reward is the share of a completion's tokens that begin a word with the letter B. Printed and plotted are the reward
and the mismatch, the KL divergence from the rollout's distribution to the trainer's, estimated on the sampled tokens:
whole, and the head's share alone, that is with the rollout's head on the trainer's own hidden states.
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import isologit

MODEL = Path(__file__).parents[1] / "tiny-qwen3"
PROMPT_TOKENS, NEW_TOKENS = 8, 16
PROMPTS, GROUP = 8, 8  # completions a step: PROMPTS groups of GROUP
MICRO_BATCH = 32  # completions that the trainer takes at once
LEARNING_RATE, CLIP = 5e-4, 0.2


def bf16_linear(hidden: Tensor, weight: Tensor) -> Tensor:
    """bf16 operands, sums in f32, rounded once to bf16: what the matrix units of GPUs do. torch's own bf16 matmul is
    many times slower on processors without such units."""
    return F.linear(hidden.float(), weight.float()).bfloat16()


def bf16_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return bf16_linear(hidden, weight).float()


def f32_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return F.linear(hidden.float(), weight.float())


class Head(NamedTuple):
    """hidden [N, H] and the weight, to logits [N, V]; and with token_ids [N], to logprobs [N]."""

    logits: Callable[[Tensor, Tensor], Tensor]
    logprobs: Callable[[Tensor, Tensor, Tensor], Tensor]


def of_logits(logits: Callable[[Tensor, Tensor], Tensor]) -> Head:
    def logprobs(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        return torch.log_softmax(logits(hidden, weight), -1).gather(-1, ids[:, None])[:, 0]

    return Head(logits, logprobs)


HEADS = {
    "bf16": of_logits(bf16_logits),
    "f32": of_logits(f32_logits),
    "isologit": Head(
        isologit.logits, lambda hidden, weight, ids: isologit.linear_logprobs(hidden, weight, ids).logprobs
    ),
}


class Rollout(NamedTuple):
    """Of N completions: ids [N, PROMPT_TOKENS + NEW_TOKENS], and the rollout's logprobs [N, NEW_TOKENS]."""

    ids: Tensor
    logprobs: Tensor


@torch.no_grad()
def roll_out(model, prompts: Tensor, head: Head, generator: torch.Generator) -> Rollout:
    """Token by token with a cache of keys and values, as an engine does it."""
    weight = model.lm_head.weight
    cache, ids, logprobs = DynamicCache(config=model.config), prompts, []
    fresh = prompts
    for _ in range(NEW_TOKENS):
        hidden = model.base_model(input_ids=fresh, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        p = torch.softmax(head.logits(hidden, weight), -1)
        fresh = torch.multinomial(p, 1, generator=generator)
        logprobs.append(head.logprobs(hidden, weight, fresh[:, 0]))
        ids = torch.cat([ids, fresh], 1)
    return Rollout(ids, torch.stack(logprobs, 1))


def hidden_states(model, ids: Tensor) -> Tensor:
    """[N, NEW_TOKENS, H] from which the completions' tokens are scored, all positions at once."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, PROMPT_TOKENS - 1 : -1]


def kl(trainer: Tensor, rollout: Tensor) -> float:
    """KL(rollout | trainer) from logprobs of tokens that the rollout sampled: never negative, and without bias."""
    gap = (trainer - rollout).double()
    return (gap.exp() - 1 - gap).mean().item()


class Step(NamedTuple):
    reward: float
    kl: float
    head_kl: float
    head_gap: float  # the greatest difference of a logprob that is the head's


class Trainer:
    """bf16 parameters for the model, and f32 copies of them that the optimiser works on."""

    def __init__(self, model) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.masters = [parameter.detach().float() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=LEARNING_RATE, weight_decay=0.0)
        self.weight = model.lm_head.weight  # tied: the embedding's, too
        self.head_gradient = torch.zeros(self.weight.shape)

    def step(self, rollout: Rollout, advantages: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Takes one step. Returns the trainer's logprobs before it, and the rollout head's of the same states."""
        self.head_gradient.zero_()
        of_trainer, of_head = [], []
        for first in range(0, len(advantages), MICRO_BATCH):
            batch = slice(first, first + MICRO_BATCH)
            new_ids = rollout.ids[batch, PROMPT_TOKENS:]
            hidden = hidden_states(self.model, rollout.ids[batch])
            # The head's gradients add up in f32; those of the body are bf16, as torch makes them.
            logprobs = isologit.linear_logprobs(
                hidden, self.weight, new_ids, dweight_accumulate=self.head_gradient
            ).logprobs
            ratio = (logprobs - rollout.logprobs[batch]).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            gain = torch.minimum(ratio * advantages[batch, None], clipped * advantages[batch, None])
            (-gain.sum() / rollout.logprobs.numel()).backward()
            of_trainer.append(logprobs.detach())
            of_head.append(self.head_again(hidden.detach(), new_ids, head))
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            master.grad = parameter.grad.float()
            if parameter is self.weight:
                master.grad += self.head_gradient
            parameter.grad = None
        self.optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                parameter.copy_(master)
        return torch.cat(of_trainer), torch.cat(of_head)

    @torch.no_grad()
    def head_again(self, hidden: Tensor, ids: Tensor, head: Head) -> Tensor:
        """By the rollout's head, in the shape it has there: a token of each completion at a time."""
        steps = [head.logprobs(hidden[:, t], self.weight, ids[:, t]) for t in range(NEW_TOKENS)]
        return torch.stack(steps, 1)


def load() -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    for layer in model.base_model.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = lambda hidden, layer=layer: bf16_linear(hidden, layer.weight)
    return model


def run(name: str, steps: int, seed: int) -> list[Step]:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = load()
    trainer, head = Trainer(model), HEADS[name]
    generator, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    verses = [tokenizer.encode(line) for line in (MODEL / "held-out.txt").read_text().splitlines()]
    verses = [ids[:PROMPT_TOKENS] for ids in verses if len(ids) >= PROMPT_TOKENS]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    wanted = torch.tensor([token.lower().startswith("ġb") for token in tokens])  # Ġ is the space before a word

    history = []
    for number in range(steps):
        prompts = torch.tensor(choose.sample(verses, PROMPTS)).repeat_interleave(GROUP, 0)
        rollout = roll_out(model, prompts, head, generator)
        rewards = wanted[rollout.ids[:, PROMPT_TOKENS:]].float().mean(1)
        groups = rewards.reshape(PROMPTS, GROUP)
        advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        of_trainer, of_head = trainer.step(rollout, advantages.flatten(), head)
        if name == "isologit":  # the head's share of the mismatch is nothing at all
            assert torch.equal(of_trainer, of_head), "the same head on the same hidden states gave other bits"
        gap = (of_trainer - of_head).abs().max().item()
        history.append(Step(rewards.mean().item(), kl(of_trainer, rollout.logprobs), kl(of_trainer, of_head), gap))
        if number % 10 == 0 or number == steps - 1:
            reward, whole, share, _ = history[-1]
            print(f"{name:<8} step {number:3}  reward {reward:.3f}  KL {whole:.2e}  the head's share {share:.2e}")
    return history


def plot(histories: dict[str, list[Step]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 7), sharex=True, layout="constrained")
    for name, history in histories.items():
        (line,) = above.plot([step.reward for step in history], label=name)
        below.plot([step.kl for step in history], color=line.get_color(), label=f"{name}, whole")
        share = [step.head_kl for step in history]
        if any(share):
            below.plot(share, color=line.get_color(), linestyle="--", label=f"{name}, the head's share")
    above.set(ylabel="reward")
    below.set(ylabel="KL(rollout | trainer)", yscale="log", xlabel="step", title="isologit's share is 0 in every step")
    above.legend(title="rollout head")
    below.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO on examples/tiny-qwen3, a run for each rollout head.")
    parser.add_argument("--steps", type=int, default=30, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", help="write a plot (needs matplotlib)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are tiny
    began = time.monotonic()
    histories = {name: run(name, options.steps, options.seed) for name in HEADS}
    print()
    print("rollout head  reward: first, last 10    mean KL  the head's share  its largest logprob gap")
    for name, history in histories.items():
        last = mean([step.reward for step in history[-10:]])
        whole, share = mean([step.kl for step in history]), mean([step.head_kl for step in history])
        gap = max(step.head_gap for step in history)
        print(f"{name:<12}  {history[0].reward:13.3f}, {last:.3f}  {whole:12.2e}  {share:16.2e}  {gap:23.2e}")
    print(f"{time.monotonic() - began:.0f} s")
    if options.plot:
        plot(histories, options.plot)


if __name__ == "__main__":
    main()
