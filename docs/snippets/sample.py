"""Draws from the example model, from torch: the tokens that the command draws."""

import torch
from safetensors.torch import load_file

import isologit

weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"]
hidden = load_file("examples/captured/tiny-qwen3.safetensors")["hidden_states"][:8]

drawn = isologit.sample(
    hidden, weight, seed=7, sequence_id=0, position=torch.arange(8), temperature=0.8, top_k=50, top_p=0.9
)
print(*drawn.ids.tolist())
scored = isologit.linear_logprobs(hidden, weight, drawn.ids, temperature=0.8)
print(torch.equal(scored.logprobs, drawn.logprobs), drawn.cut_logprobs[0].item())
