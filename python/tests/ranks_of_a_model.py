"""Two ranks of a training step of a model whose head, or head and body, are isologit's, each with a row of the batch.
Prints, in JSON, what differs from one process: for each rank {case: {tensor: how many of its values}}."""

from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import forked
import torch
import transformers
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import isologit
from isologit import hf, parallel
from isologit._deferred import DeferredLogits
from isologit.nn import LMHead

RANKS = 2
CONFIG = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
IDS = torch.randint(3, 61, (RANKS, 9), generator=torch.Generator().manual_seed(5))


ITEMS = 23  # tokens of the whole batch and of others, which the loss is over


def model_of(scope: str, tied: bool = True, family: str = "Qwen3") -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**CONFIG, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    hf.install(model, scope=scope)
    return model


class Scored(nn.Module):
    """ids [N, T] to logprobs [N, T - 1]: what ranks wrap, so that head and body are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model_of("model")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return self.model.get_output_embeddings().logprobs(hidden[:, :-1], ids[:, 1:]).logprobs


def of_logprobs(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logprobs = module(ids)
    (-logprobs.sum()).backward()
    return logprobs.detach()


def of_labels(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The loss that a model makes of hidden states: without logits, forward and backward."""
    with mock.patch.object(LMHead, "plain_logits", side_effect=AssertionError("logits were made")):
        out = module(input_ids=ids, labels=ids, num_items_in_batch=ITEMS)
        out.loss.backward()
    assert isinstance(out.logits, DeferredLogits)
    return out.loss.detach()


def ddp(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module)


def ddp_unused(module: nn.Module) -> nn.Module:
    """As Transformers' Trainer has it."""
    return DistributedDataParallel(module, find_unused_parameters=True)


def fsdp2(module: nn.Module) -> nn.Module:
    for layer in next(each for each in module.modules() if isinstance(each, nn.ModuleList)):
        fully_shard(layer)
    return fully_shard(module)


def fsdp2_head(model: nn.Module) -> nn.Module:
    fully_shard(model.lm_head)
    return fsdp2(model)


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    step: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    wrap: Callable[[nn.Module], nn.Module]


def with_labels(scope: str, wrap: Callable[[nn.Module], nn.Module], family: str = "Qwen3", tied: bool = True) -> Case:
    return Case(lambda: model_of(scope, tied, family), of_labels, wrap)


CASES = {
    "none": Case(Scored, of_logprobs, lambda module: module),
    "ddp": Case(Scored, of_logprobs, ddp),
    "fsdp2": Case(Scored, of_logprobs, fsdp2),
    "labels, ddp": with_labels("head", ddp),
    "labels, ddp, unused": with_labels("head", ddp_unused),
    "labels, fsdp2": with_labels("head", fsdp2),
    "labels, capped, ddp, unused": with_labels("head", ddp_unused, "Gemma2"),
    "labels, capped, fsdp2": with_labels("head", fsdp2, "Gemma2"),
    "labels, model, ddp": with_labels("model", ddp_unused),
    "labels, model, fsdp2": with_labels("model", fsdp2),
    "labels, fsdp2 of the head": with_labels("head", fsdp2_head, tied=False),
}


def expected(case: Case) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The results of each row alone, and the gradients' mean over the ranks, as the wrappers take it."""
    results, gradients = [], []
    for row in IDS.split(1):
        module = case.make()
        results.append(case.step(module, row))
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    return results, {name: sum(one[name] / RANKS for one in gradients) for name in gradients[0]}


def different(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a != b).sum())


def differences(rank: int, case: Case) -> dict[str, int]:
    results, gradients = expected(case)
    module = case.make()
    found = {"result": different(case.step(case.wrap(module), IDS[rank : rank + 1]), results[rank])}
    for name, parameter in module.named_parameters():
        gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
        found[name] = different(gradient, gradients[name])
    is_sharded = case.wrap in (fsdp2, fsdp2_head)
    assert all(isinstance(parameter, DTensor) == is_sharded for parameter in module.parameters())
    return found


def evaluation(rank: int) -> dict[str, int]:
    """Of a model whose weight FSDP2 shards again when it returns: its logits, and what training says of them."""
    model, row = model_of("head"), IDS[rank : rank + 1]
    right, loss = model(input_ids=row).logits, model(input_ids=row, labels=row).loss
    fully_shard(model, reshard_after_forward=True)
    with torch.no_grad():
        out = model(input_ids=row, labels=row)
    assert isinstance(model.lm_head.weight, DTensor)
    try:
        model(input_ids=row, labels=row).logits.sum()
        refused = False
    except RuntimeError as error:
        refused = "FSDP has sharded the weight again" in str(error)
    return {"logits": different(out.logits, right), "loss": different(out.loss, loss), "not refused": int(not refused)}


def of_a_sharded_head(rank: int) -> dict[str, int]:
    """isologit.parallel of the weight as fully_shard left it: each rank multiplies by its own rows alone."""

    def step(model: nn.Module, ids: torch.Tensor, score: Callable, **options: object) -> torch.Tensor:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logprobs = score(hidden[:, :-1], model.lm_head.weight, ids[:, 1:], gradients="exact", **options).logprobs
        (-logprobs.sum()).backward()
        return logprobs.detach()

    whole, model = model_of("model", tied=False), model_of("model", tied=False)
    rows = [model_of("model", tied=False) for _ in IDS]
    result = step(whole, IDS, isologit.linear_logprobs)[rank : rank + 1]
    for one, row in zip(rows, IDS.split(1), strict=True):
        step(one, row, isologit.linear_logprobs)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model.model)
    fully_shard(model.lm_head)
    model.lm_head.unshard = mock.Mock(side_effect=AssertionError("the head's weight was gathered"))
    found = step(model, IDS[rank : rank + 1], parallel.linear_logprobs, rows="own")
    weight = model.lm_head.weight
    assert isinstance(weight, DTensor) and weight.to_local().shape[0] < CONFIG["vocab_size"]
    differing = {"result": different(found, result)}
    differing["lm_head.weight"] = different(weight.grad.full_tensor(), whole.lm_head.weight.grad)
    for name, parameter in model.model.named_parameters():
        mean = sum(dict(one.model.named_parameters())[name].grad / RANKS for one in rows)
        differing[name] = different(parameter.grad.full_tensor(), mean)
    return differing


def work(rank: int) -> dict[str, dict[str, int]]:
    found = {name: differences(rank, case) for name, case in CASES.items()}
    found["evaluation"] = evaluation(rank)
    found["a sharded head"] = of_a_sharded_head(rank)
    return found


if __name__ == "__main__":
    forked.say(work, RANKS)
