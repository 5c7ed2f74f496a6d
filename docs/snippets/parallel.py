"""The example model's head split over two ranks, each with its rows of the weight: the bits of the whole."""

import os
import tempfile

import torch
import torch.distributed as dist
from safetensors.torch import load_file

import isologit
from isologit import parallel

weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"]
captured = load_file("examples/captured/tiny-qwen3.safetensors")
hidden, token_ids = captured["hidden_states"][:64], captured["token_ids"][:64].long()


def work(rank):
    own = weight[rank * 2048 : (rank + 1) * 2048].clone().requires_grad_()
    scores = parallel.linear_logprobs(hidden, own, token_ids, vocab_size=4096, gradients="exact")
    scores.logprobs.sum().backward()
    whole = weight.clone().requires_grad_()
    expected = isologit.linear_logprobs(hidden, whole, token_ids, gradients="exact").logprobs
    expected.sum().backward()
    same = torch.equal(scores.logprobs, expected), torch.equal(own.grad, whole.grad[rank * 2048 : (rank + 1) * 2048])
    draws = {"seed": 1, "sequence_id": torch.arange(64), "position": 0, "top_p": 0.9}
    drawn = parallel.sample(hidden, own, vocab_size=4096, **draws)
    if rank == 0:
        print(*same, torch.equal(drawn.ids, isologit.sample(hidden, weight, **draws).ids), flush=True)


with tempfile.TemporaryDirectory() as folder:
    for number in range(2):
        if os.fork() == 0:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
            work(number)
            dist.barrier()
            os._exit(0)
    for _ in range(2):
        os.wait()
