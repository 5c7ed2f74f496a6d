"""A head of f8 with a scale for each block of 128 by 128, as it is and as it would be dequantised to bf16."""

import torch

import isologit

values = torch.arange(-300, 300).reshape(200, 3).div(64).to(torch.float8_e4m3fn)
scale = torch.tensor([[0.0125], [0.03]])  # [row blocks, column blocks]: 200 rows make two
hidden = torch.tensor([[1.0, -2.0, 0.5]])

for product in ("real", "bf16"):
    weight = isologit.F8Weight(values, scale, block=(128, 128), product=product)
    print(product, isologit.linear_logprobs(hidden, weight, [7]).logprobs.tolist())
