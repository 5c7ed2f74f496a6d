"""One token for each of three rows of logits, and what the cut leaves of a row."""

import torch

import isologit

logits = torch.tensor([[1.0, 2.0, 3.0, -torch.inf]]).expand(3, 4)
drawn = isologit.sample_of_logits(logits, seed=7, sequence_id=0, position=torch.arange(3), top_p=0.9)
print(drawn.ids.tolist(), drawn.cut_logprobs.tolist())
print(isologit.cut_mask_of_logits(logits[0], top_p=0.9).tolist())
