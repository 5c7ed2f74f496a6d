"""TRL's GRPOTrainer on rollouts of an engine, measuring each step."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from configuration import GROUP, LEARNING_RATE, MODEL, NEW_TOKENS, PROMPT_TOKENS, PROMPTS, Run
from datasets import Dataset
from mismatch import Logprobs, Step, check, measure
from rollouts import Engine, expect_made
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

import isologit
from isologit import hf
from isologit.integrations import trl


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
    """The importance ratios are the trainer's probabilities over those that the engine reports, as they are where
    rollouts come from an engine: a mismatch is in the loss."""

    def __init__(self, engine: Engine, run: Run, steps: int, seed: int, folder: Path) -> None:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        verses = (MODEL / "held-out.txt").read_text().splitlines()
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        verses = [verse for verse in verses if len(tokenizer.encode(verse)) >= PROMPT_TOKENS]
        self._wanted = torch.tensor([token.lower().startswith("ġb") for token in tokens])  # Ġ is the space before it
        self._engine, self._run = engine, run
        if run.scope == "model":
            hf.install(model, scope="model")
        self.history: list[Step] = []
        self.forwards = 0  # of TRL's fused head that isologit has answered
        super().__init__(
            model=model,
            args=GRPOConfig(
                str(folder), max_steps=steps, seed=seed, per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP, max_completion_length=NEW_TOKENS, cast_lm_head_to_fp32=run.f32,
                lr_scheduler_type="constant", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
            ),  # fmt: skip
            reward_funcs=self._rewards,
            train_dataset=Dataset.from_dict({"prompt": verses}),
            processing_class=tokenizer,
            optimizers=(MasterAdamW(list(model.parameters())), None),
            rollout_func=self._roll_out,
        )
        self.remove_callback(PrinterCallback)
        if run.scope:
            trl.install(self)

    def _rewards(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [self._wanted[ids].float().mean().item() for ids in completion_ids]

    def _roll_out(self, prompts: list[str], _: GRPOTrainer) -> dict[str, Any]:
        self._engine.sync(self.model)
        rollout = self._engine.roll_out([self._tokenizer.encode(one)[:PROMPT_TOKENS] for one in prompts])
        self._right = self._right_logprobs(rollout.hidden, torch.tensor(rollout.ids))
        return {
            "prompt_ids": rollout.prompt_ids,
            "completion_ids": rollout.ids,
            "logprobs": rollout.logprobs.tolist(),
        }

    def _right_logprobs(self, hidden: Tensor, ids: Tensor) -> Tensor:
        weight = self.accelerator.unwrap_model(self.model).get_output_embeddings().weight
        return isologit.linear_logprobs(hidden, weight.detach().to(hidden.dtype), ids).logprobs

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
        batch["right_of_rollout"] = self._right  # goes with its completions when TRL shuffles them
        return batch

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        with states_kept(self.accelerator.unwrap_model(model)) as states:
            loss = super()._compute_loss(model, inputs)
        (hidden,) = states
        completions = inputs["completion_ids"]
        logprobs = Logprobs(
            inputs["sampling_per_token_logps"],
            inputs["right_of_rollout"],
            self._right_logprobs(hidden, completions),
            self._trained,
        )
        check(self._run.scope, logprobs)
        self.history.append(measure(logprobs, self._wanted[completions].float().mean().item()))
        return loss

    def _get_per_token_logps_and_entropies(self, model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        before = trl.calls
        logprobs, *rest = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        made = trl.calls - before
        expect_made(made, int(bool(self._run.scope)), "forwards of TRL's fused head")
        self.forwards += made
        self._trained = logprobs.detach()
        return logprobs, *rest


@contextlib.contextmanager
def states_kept(model: nn.Module) -> Iterator[list[Tensor]]:
    """The states [N, NEW_TOKENS, H] from which the last tokens are scored, of each forward within."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(output.last_hidden_state[:, -NEW_TOKENS - 1 : -1].detach())

    hook = model.base_model.register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()
