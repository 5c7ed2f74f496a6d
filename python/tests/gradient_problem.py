"""A small head whose gradients are tested, and what they are by definition."""

import expected_gradients as by_definition
import torch
from expected_gradients import Transforms, Upstream

ROWS, VOCAB, SIZE = 5, 23, 7


def tensors(hidden_dtype=torch.bfloat16, weight_dtype=torch.bfloat16, bias_dtype=None, seed=0, vocab=VOCAB):
    generator = torch.Generator().manual_seed(seed)

    def leaf(dtype, *shape):
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    bias = None if bias_dtype is None else leaf(bias_dtype, vocab)
    ids = torch.randint(0, VOCAB - 3, (ROWS,), generator=generator)
    return leaf(hidden_dtype, ROWS, SIZE), leaf(weight_dtype, vocab, SIZE), bias, ids


def randn(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dz_of(hidden, weight, bias, ids, d_logprobs, d_lse, d_entropy, mask=None, z0=None, d_mean_logits=None, **steps):
    """ids and d_logprobs [N, K]; z0: the logits, if not the exact ones."""
    if z0 is None:
        z0 = by_definition.first_logits(hidden.detach(), weight.detach(), None if bias is None else bias.detach())
    steps.setdefault("temperature", [1.0] * len(z0))
    d_mean_logits = torch.zeros(len(z0)) if d_mean_logits is None else d_mean_logits
    mask = [[True] * len(z0[0])] * len(z0) if mask is None else mask.tolist()
    return [
        by_definition.dz_of_row(
            z0[n],
            n,
            Transforms(**steps),
            Upstream(
                ids[n].tolist(),
                d_logprobs[n].tolist(),
                d_lse[n].item(),
                d_entropy[n].item(),
                d_mean_logits[n].item(),
            ),
            mask[n],
        )
        for n in range(len(z0))
    ]


def random_mask():
    mask = torch.rand(ROWS, VOCAB, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0] = True
    mask[1] = False
    mask[1, 4] = True
    return mask
