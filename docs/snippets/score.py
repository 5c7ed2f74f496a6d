"""Log-probabilities of two tokens under a head of three tokens and hidden size 2."""

import numpy as np

import isologit

weight = np.array([[1.0, 0.5], [-0.25, 2.0], [0.0, 1.0]], np.float32)  # [V, H], read in place
hidden = np.array([[3.0, -1.0], [0.5, 40.0]], np.float32)  # [..., H]

scores = isologit.score(hidden, weight, token_ids=[0, 1], outputs=("logprobs", "entropy", "rank"))
print(*scores.logprobs)
print(*scores.entropy)
print(*scores.rank)
