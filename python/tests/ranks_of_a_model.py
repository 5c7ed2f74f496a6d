"""Two ranks of a training step of a model whose head and body are isologit's, each with a row of the batch. Prints, in
JSON, what differs from one process: for each rank {wrapper: {tensor: how many of its values}}."""

import json
import os
import sys
import tempfile

import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from isologit import hf

RANKS = 2
CONFIG = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}
IDS = torch.randint(3, 61, (RANKS, 9), generator=torch.Generator().manual_seed(5))


class Scored(nn.Module):
    """ids [N, T] to logprobs [N, T - 1]: what ranks wrap, so that head and body are called within it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.Qwen3Config(**CONFIG)
        self.model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        hf.install(self.model, scope="model")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return self.model.get_output_embeddings().logprobs(hidden[:, :-1], ids[:, 1:]).logprobs


def ddp(scored: Scored) -> nn.Module:
    return DistributedDataParallel(scored)


def fsdp2(scored: Scored) -> nn.Module:
    for layer in scored.model.base_model.layers:
        fully_shard(layer)
    return fully_shard(scored)


WRAPPERS = {"none": lambda scored: scored, "ddp": ddp, "fsdp2": fsdp2}


def step(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logprobs = module(ids)
    (-logprobs.sum()).backward()
    return logprobs.detach()


def expected() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The logprobs of each row alone, and the gradients' mean over the ranks, as both wrappers take it."""
    logprobs, gradients = [], []
    for row in IDS.split(1):
        scored = Scored()
        logprobs.append(step(scored, row))
        gradients.append({name: parameter.grad for name, parameter in scored.named_parameters()})
    return logprobs, {name: sum(one[name] / RANKS for one in gradients) for name in gradients[0]}


def different(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a != b).sum())


def differences(rank: int, wrap: str) -> dict[str, int]:
    logprobs, gradients = expected()
    scored = Scored()
    found = {"logprobs": different(step(WRAPPERS[wrap](scored), IDS[rank : rank + 1]), logprobs[rank])}
    for name, parameter in scored.named_parameters():
        gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
        found[name] = different(gradient, gradients[name])
    assert all(isinstance(parameter, DTensor) == (wrap == "fsdp2") for parameter in scored.parameters())
    return found


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    found = {wrap: differences(rank, wrap) for wrap in WRAPPERS}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(RANKS):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    work(rank, folder)
                    code = 0
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                os._exit(code)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):  # a list: all are waited for
            sys.exit("a rank failed")
        print(json.dumps([json.load(open(f"{folder}/{rank}.json")) for rank in range(RANKS)]))
