"""The trainer's side: a model of Transformers on the rollouts' tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import isologit
from isologit import hf
from isologit.audit._rollouts import Rollout

ROWS = 64  # of logits at a time


@dataclass
class Head:
    """weight [V, H] of the real vocabulary, and the rest of what makes logits; padded: with rows past it."""

    weight: Tensor
    bias: Tensor | None
    padded: Tensor
    transforms: dict[str, float | str]

    @classmethod
    def of(cls, model: nn.Module) -> "Head":
        linear = model.get_output_embeddings()
        if linear is None:
            raise ValueError(f"{type(model).__name__} has no output embeddings; expected a causal language model")
        size = min(model.config.get_text_config().vocab_size, linear.weight.shape[0])
        bias = None if linear.bias is None else linear.bias.detach()[:size]
        weight = linear.weight.detach()
        return cls(weight[:size], bias, weight, hf.transforms(model.config))

    def exact(self, hidden: Tensor, ids: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """The right answer, f32."""
        head = {"bias": self.bias, **self.transforms}
        head = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in head.items()}
        temperature = temperature.cpu() if isinstance(temperature, Tensor) else temperature
        scores = isologit.score(hidden.cpu(), self.weight.cpu(), ids.cpu(), temperature=temperature, **head)
        return scores.logprobs

    def usual(self, hidden: Tensor, ids: Tensor, temperature: Tensor, dtype: torch.dtype) -> Tensor:
        """As torch makes it: logits by F.linear in dtype, then f32, transforms, temperature, log_softmax."""

        def logits(rows: Tensor) -> Tensor:
            bias = None if self.bias is None else self.bias.to(dtype)
            return self._transformed(F.linear(rows.to(dtype), self.weight.to(dtype), bias).float())

        return over_rows(lambda rows, own, t: _logprobs(logits(rows), own, t), hidden, ids, temperature)

    def _transformed(self, logits: Tensor) -> Tensor:
        def scaled(z: Tensor) -> Tensor:
            return z * self.transforms.get("scale", 1.0) / self.transforms.get("divide", 1.0)

        scale_first = self.transforms.get("transform_order") == "scale_first"
        if scale_first:
            logits = scaled(logits)
        if (cap := self.transforms.get("softcap")) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits if scale_first else scaled(logits)

    def logits(self, hidden: Tensor, *, padded: bool = False) -> Tensor:
        """f32 products, for comparisons that are about mistakes, not about roundings."""
        weight = self.padded if padded else self.weight
        bias = None if self.bias is None or padded else self.bias.float()
        return self._transformed(F.linear(hidden.float(), weight.float(), bias))


def over_rows(compute: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """compute of blocks of rows: the logits of all at once would not fit."""
    count = columns[0].shape[0]
    blocks = [compute(*(one[i : i + ROWS] for one in columns)) for i in range(0, count, ROWS)]
    return torch.cat(blocks).cpu() if blocks else torch.empty(0)


def _logprobs(logits: Tensor, ids: Tensor, temperature: Tensor) -> Tensor:
    logits = logits / temperature.to(logits.device)[:, None]
    return torch.log_softmax(logits, -1).gather(1, ids.to(logits.device)[:, None])[:, 0]


@dataclass
class States:
    """Of every scored token, one row each in the rollouts' order: the state at the head, and before the final norm."""

    hidden: Tensor
    before_norm: Tensor | None
    reported: Tensor  # the trainer's own logprobs, f32: the model's logits made f32, temperature, log_softmax


@torch.no_grad()
def run(model: nn.Module, rollouts: list[Rollout], temperatures: list[float]) -> States:
    norm = final_norm(model)
    kept: dict[str, Tensor] = {}
    head = model.get_output_embeddings()
    hooks = [head.register_forward_pre_hook(lambda _, args: kept.__setitem__("hidden", args[0][0]))]
    if norm is not None:
        hooks.append(norm.register_forward_pre_hook(lambda _, args: kept.__setitem__("before", args[0][0])))
    hidden, before, reported = [], [], []
    try:
        for rollout, temperature in zip(rollouts, temperatures, strict=True):
            rows, ids = scored_rows(rollout)
            if not rows:
                continue
            output = model(torch.tensor([rollout.ids], device=model.device), use_cache=False)
            at = torch.tensor(rows, device=model.device)
            hidden.append(kept["hidden"][at].cpu())
            if norm is not None:
                before.append(kept["before"][at].cpu())
            size = min(model.config.get_text_config().vocab_size, output.logits.shape[-1])
            logits = output.logits[0, :, :size]
            t = torch.full((len(rows),), temperature)
            reported.append(over_rows(lambda r, i, x, of=logits: _logprobs(of[r].float(), i, x), at, ids, t))
    finally:
        for hook in hooks:
            hook.remove()
    return States(torch.cat(hidden), torch.cat(before) if before else None, torch.cat(reported))


def scored_rows(rollout: Rollout) -> tuple[list[int], Tensor]:
    """The rows that tokens with a reported logprob are scored from, and these tokens."""
    start = len(rollout.prompt)
    at = [i for i, one in enumerate(rollout.logprobs) if one is not None and start + i > 0]
    return [start + i - 1 for i in at], torch.tensor([rollout.generated[i] for i in at], dtype=torch.int64)


def final_norm(model: nn.Module) -> nn.Module | None:
    """What the body ends with, where it goes by a usual name."""
    body = getattr(model, "base_model", model)
    return next((norm for name in ("norm", "final_layernorm", "ln_f") if (norm := getattr(body, name, None))), None)




@torch.no_grad()
def forward(model: nn.Module, rollouts: list[Rollout], ids: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Logprobs of both sides where all of the model is isologit's: token by token with a cache, and in one pass."""
    lm_head = hf.install(model, scope="model")
    # Transformers' present name, or its former one.
    cache_name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    kept: list[Tensor] = []
    hook = lm_head.register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
    try:
        for rollout in rollouts:
            rows, _ = scored_rows(rollout)
            if not rows:
                continue
            whole = torch.tensor([rollout.ids], device=model.device)
            start = max(1, len(rollout.prompt))
            cache = None
            for begin, end in [(0, start), *((i, i + 1) for i in range(start, whole.shape[1]))]:
                output = model(whole[:, begin:end], use_cache=True, **{cache_name: cache})
                cache = output[cache_name]
            sides[0].append(torch.cat(kept)[rows])
            kept.clear()
            model(whole, use_cache=False)
            sides[1].append(torch.cat(kept)[rows])
            kept.clear()
    finally:
        hook.remove()
        hf.uninstall(model)
    head = Head.of(model)
    by_token, at_once = (head.exact(torch.cat(one), ids, temperature) for one in sides)
    return by_token, at_once
