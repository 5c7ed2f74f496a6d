"""A loss of the example model's head and its gradients, which are the same bits on every machine."""

import hashlib

import torch
from safetensors.torch import load_file

import isologit


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"].requires_grad_()
captured = load_file("examples/captured/tiny-qwen3.safetensors")
hidden, token_ids = captured["hidden_states"][:256].requires_grad_(), captured["token_ids"][:256]

scored = isologit.linear_logprobs(hidden, weight, token_ids, return_entropy=True, gradients="exact")
(scored.logprobs.sum() + 0.01 * scored.entropy.sum()).backward()
print(hidden.grad.dtype, digest(hidden.grad), weight.grad.dtype, digest(weight.grad))

# Micro-batches add up in f32; weight.grad is left alone.
weight.grad, weight.main_grad = None, torch.zeros(weight.shape)
for rows, ids in zip(hidden.detach().split(64), token_ids.split(64), strict=True):
    isologit.linear_logprobs(rows, weight, ids, dweight_accumulate=weight.main_grad).logprobs.sum().backward()
print(weight.grad, weight.main_grad.dtype)

# The loss of a trainer: a mean, rounded once.
loss = isologit.linear_cross_entropy(hidden, weight, token_ids)
loss.backward()
print(loss.item())
