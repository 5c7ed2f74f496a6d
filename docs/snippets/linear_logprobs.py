"""The captured tokens of the example model, from torch. The digest is the one that the command prints."""

import hashlib

from safetensors.torch import load_file

import isologit

weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"]  # tied
captured = load_file("examples/captured/tiny-qwen3.safetensors")
hidden, token_ids = captured["hidden_states"], captured["token_ids"].long()

scored = isologit.linear_logprobs(hidden, weight, token_ids, return_entropy=True, top_k=2)
print(tuple(hidden.shape), hidden.dtype, "->", tuple(scored.logprobs.shape), scored.logprobs.dtype)
print(hashlib.sha256(scored.logprobs[token_ids != -100].numpy().tobytes()).hexdigest())

print(scored.top_k_ids[0].tolist(), scored.top_k_logprobs[0].tolist())
print(isologit.linear_logprobs(hidden[:1], weight, token_ids[:1], temperature=0.7).logprobs.tolist())
