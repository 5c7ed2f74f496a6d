"""A loss of two sequences, whole and in two parts."""

import torch

from isologit import losses

logprobs = torch.tensor([[-0.5, -1.25, -0.75], [-2.0, -0.125, 0.0]], requires_grad=True)
old_logprobs = torch.tensor([[-0.75, -1.0, -0.5], [-1.5, -0.25, 0.0]])
advantages = torch.tensor([1.0, -0.5])
mask = torch.tensor([[True, True, True], [True, True, False]])

loss = losses.policy_loss(logprobs, old_logprobs, advantages, mask, kind="grpo")
loss.backward()
print(loss.item())

parts = [
    losses.policy_loss_part(logprobs[row], old_logprobs[row], advantages[row], mask[row], kind="grpo")
    for row in (slice(0, 1), slice(1, 2))
]
print((parts[1] + parts[0]).loss() == loss.item())

alone = logprobs[1:].detach().requires_grad_()
losses.policy_loss(alone, old_logprobs[1:], advantages[1:], mask[1:], kind="grpo", count=2).backward()
print(torch.equal(alone.grad, logprobs.grad[1:]))
