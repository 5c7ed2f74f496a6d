"""A model of Transformers whose head is exact."""

import torch
from transformers import AutoModelForCausalLM

import isologit

model = AutoModelForCausalLM.from_pretrained("examples/tiny-qwen3", dtype=torch.bfloat16)
input_ids = torch.tensor([[5, 80, 300, 7]])

with torch.no_grad():
    head = isologit.hf.install(model)
    print(model(input_ids).logits.dtype)

    hidden = model.base_model(input_ids).last_hidden_state
    # Nothing is shifted for you: the state at t says how probable the token at t + 1 is.
    print(tuple(head.logprobs(hidden[:, :-1], input_ids[:, 1:]).logprobs.shape))

    isologit.hf.uninstall(model)
    print(model(input_ids).logits.dtype)
