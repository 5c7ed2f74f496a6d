"""Logprobs of given logits, of a numpy array and of a torch tensor."""

import numpy as np
import torch

import isologit

logits = torch.tensor([[1.0, 2.0, 3.0], [40.0, -0.5, 0.0]], requires_grad=True)  # [..., V]
logprobs = isologit.log_softmax(logits)  # f32 [..., V]
print(logprobs[1].tolist())
print(torch.log_softmax(logits, dim=-1)[1].tolist())

picked = isologit.logprobs_of_logits(logits, torch.tensor([2, 0]), temperature=0.5)  # ids [...] or [..., K]
picked.sum().backward()
print(picked.tolist())
print(logits.grad[1].tolist())

print(isologit.lse_of_logits(logits).tolist(), isologit.entropy_of_logits(logits).tolist())
print(isologit.logprobs_of_logits(np.array([[1.0, 2.0, 3.0]], np.float16), np.array([2])))
