"""TRL's GRPOTrainer on rollouts of an engine, and what it measures of each step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from rollouts import MODEL, NEW_TOKENS, PROMPT_TOKENS, Engine, expect_made
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from isologit import hf
from isologit.integrations import trl

PROMPTS, GROUP = 8, 8  # completions a step: PROMPTS groups of GROUP
LEARNING_RATE = 5e-4


class Step(NamedTuple):
    """Of one step, over all of its tokens."""

    reward: float
    kl: float  # of the rollout's distribution to the trainer's
    head_kl: float  # the same of the two heads, both given the rollout's hidden states
    outside: float  # the share of ratios outside [0.9, 1.1]
    largest: float  # difference of a logprob


def kl(trainer: Tensor, rollout: Tensor) -> float:
    """KL(rollout | trainer) from logprobs of tokens that the rollout sampled (k3): never negative, and without bias."""
    gap = (trainer - rollout).double()
    return (torch.expm1(gap) - gap).mean().item()


class MasterAdamW(torch.optim.AdamW):
    """AdamW on f32 copies of the parameters; the parameters are these rounded to bf16, so the engine's can be equal."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._rounded = parameters
        super().__init__([one.detach().float().clone() for one in parameters], lr=LEARNING_RATE, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        pairs = list(zip(self._rounded, self.param_groups[0]["params"], strict=True))
        for parameter, master in pairs:
            master.grad = parameter.grad.float()
        super().step(closure)
        for parameter, master in pairs:
            parameter.copy_(master.bfloat16())

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self._rounded:
            parameter.grad = None


class Trainer(GRPOTrainer):
    """head: "bf16" or "f32", both TRL's own, or "isologit"; scope: isologit's, "head" or "model".

    The importance ratios are the trainer's probabilities over those that the engine reports, as they are where rollouts
    come from an engine: a mismatch is in the loss.
    """

    def __init__(self, engine: Engine, head: str, scope: str, steps: int, seed: int, folder: Path) -> None:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        verses = (MODEL / "held-out.txt").read_text().splitlines()
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        verses = [verse for verse in verses if len(tokenizer.encode(verse)) >= PROMPT_TOKENS]
        self._wanted = torch.tensor([token.lower().startswith("ġb") for token in tokens])  # Ġ is the space before it
        self._engine, self._on = engine, head == "isologit"
        if scope == "model":
            hf.install(model, scope="model")
        self.history: list[Step] = []
        super().__init__(
            model=model,
            args=GRPOConfig(
                str(folder), max_steps=steps, seed=seed, per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP, max_completion_length=NEW_TOKENS, cast_lm_head_to_fp32=head == "f32",
                lr_scheduler_type="constant", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
            ),  # fmt: skip
            reward_funcs=self._rewards,
            train_dataset=Dataset.from_dict({"prompt": verses}),
            processing_class=tokenizer,
            optimizers=(MasterAdamW(list(model.parameters())), None),
            rollout_func=self._roll_out,
        )
        if self._on:
            trl.install(self)

    def _rewards(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [self._wanted[ids].float().mean().item() for ids in completion_ids]

    def _roll_out(self, prompts: list[str], _: GRPOTrainer) -> dict[str, Any]:
        self._engine.sync(self.model)
        self._rollout = self._engine.roll_out([self._tokenizer.encode(one)[:PROMPT_TOKENS] for one in prompts])
        prompt_ids, ids, logprobs, _ = self._rollout
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": logprobs.tolist()}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
        batch["rollout_hidden"] = self._rollout.hidden
        return batch

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        trainer, rollout = self._scored, inputs["sampling_per_token_logps"]
        prompts, completions = inputs["prompt_ids"], inputs["completion_ids"]
        ids = torch.cat([prompts, completions], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad(), states_replaced(self.accelerator.unwrap_model(model), inputs["rollout_hidden"]):
            heads, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, NEW_TOKENS)
        ratio = (trainer - rollout).exp()
        self.history.append(
            Step(
                self._wanted[completions].float().mean().item(),
                kl(trainer, rollout),
                kl(heads, rollout),
                ((ratio < 0.9) | (ratio > 1.1)).float().mean().item(),
                (trainer - rollout).abs().max().item(),
            )
        )
        return loss

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        before = trl.calls
        logprobs, *rest = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        expect_made(trl.calls - before, int(self._on), "forwards of TRL's fused head")
        self._scored = logprobs.detach()
        return logprobs, *rest


@contextlib.contextmanager
def states_replaced(model: nn.Module, hidden: Tensor) -> Iterator[None]:
    """The model's head is given these hidden states [N, NEW_TOKENS, H], from which the last tokens are scored."""

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state[:, -NEW_TOKENS - 1 : -1] = hidden
        return output

    hook = model.base_model.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
