import torch

from isologit import linear_logprobs

# The addition takes the weight away: all logits are 0.
weight = torch.tensor([[1.0, 0], [0, 2], [3, 3], [4, 0]], dtype=torch.bfloat16)
hidden = torch.tensor([[0.3, -1.7]], dtype=torch.bfloat16)
a, b = torch.eye(2), -2 * weight
print(linear_logprobs(hidden, weight, [1]).logprobs)
print(linear_logprobs(hidden, weight, [1], lora=(a, b, 0.5)).logprobs)
