"""Losses of the example model, of tensors and of arrays."""

from safetensors.torch import load_file

import isologit

weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"].float()
captured = load_file("examples/captured/tiny-qwen3.safetensors")
hidden, target = captured["hidden_states"][:256].float(), captured["token_ids"][:256].long()

print(isologit.linear_cross_entropy(hidden, weight, target).item())
print(isologit.linear_cross_entropy(hidden.numpy(), weight.numpy(), target.numpy()))
print(isologit.linear_cross_entropy(hidden, weight, target, label_smoothing=0.1, z_loss=1e-4).item())
