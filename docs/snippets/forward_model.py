"""A small model's hidden states, computed at once and token by token."""

import torch
from transformers import AutoModelForCausalLM

import isologit

model = AutoModelForCausalLM.from_pretrained("examples/tiny-qwen3", dtype=torch.bfloat16).eval()
ids = torch.tensor([[269, 259, 342, 17, 1201, 5, 88, 4, 300, 9, 71, 2]])

isologit.hf.install(model, scope="model")
with torch.no_grad():
    whole = model.base_model(ids).last_hidden_state
    cache, parts = None, []
    for token in ids[0]:
        out = model.base_model(token[None, None], cache=cache, use_cache=True)
        cache = out.cache
        parts.append(out.last_hidden_state)
different = int((torch.cat(parts, 1) != whole).sum())
print(f"{different} of {whole.numel()} hidden values differ")
