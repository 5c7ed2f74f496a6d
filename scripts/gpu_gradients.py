"""Fast gradients of the CUDA library, beside those of torch's f64 of the same logits: within CONTRACT 5's bound, with
rows of a size that parts of bf16 cannot take, rows of zeros and great upstreams among them, and rows of dhidden that no
other row changes."""

import sys
from collections.abc import Callable

import torch
from gpu_inputs import BF16, F16, F32, matrix
from torch import Tensor

# vocabulary, depth, rows, type of hidden and weight, the exponent of what an upstream is multiplied with
CASES = {
    "bf16": (5000, 896, 200, BF16, 0),
    "bf16, odd depth": (2500, 133, 70, BF16, 0),
    "bf16, great upstream": (2500, 896, 1100, BF16, 90),
    "f16": (2500, 136, 70, F16, 0),
    "f32": (2500, 136, 70, F32, 0),
    "small": (300, 136, 70, BF16, 0),
}


def operands(case: tuple, device: str) -> tuple[Tensor, ...]:
    """hidden, weight, ids [N, 1], and upstreams of logprobs [N, 1] and lse [N]."""
    vocab, depth, rows, dtype, great = case
    hidden, weight = matrix(rows, depth, 2, device, dtype, "normal"), matrix(vocab, depth, 1, device, dtype, "normal")
    weight *= 2.0**-5
    weight[-40:] = 0
    if dtype != F16:
        weight[100] *= 2.0**-110
        weight[101] *= 2.0**-60
        hidden[66] *= 2.0**-112
    ids = (torch.arange(rows, device=device) * 577 % vocab)[:, None]
    logprobs, lse = (matrix(1, rows, seed, device, F32, "normal").view(-1) for seed in (3, 4))
    for upstream in (logprobs, lse):
        upstream[4] *= 2.0**great
        upstream[5] *= 2.0**-90
        upstream[6] = 0
    return hidden, weight, ids, logprobs[:, None], lse


def gradients(library, hidden: Tensor, weight: Tensor, ids: Tensor, logprobs: Tensor, lse: Tensor) -> tuple:
    head = sys.modules[type(library).__module__].Head(hidden, weight)
    made = [torch.full(x.shape, torch.nan, device=x.device) for x in (hidden, weight)]
    status = library.backward(head, ids, d_logprobs=logprobs, d_lse=lse, dhidden=made[0], dweight=made[1])
    return *made, not bool(status.any())


def is_within(found: Tensor, dz: Tensor, other: Tensor) -> tuple[bool, float]:
    """Of rows; and the greatest error, of what it is measured by."""
    part = 2.0**-16 if other.dtype == BF16 else 2.0**-19
    right, other = dz @ other.double(), other.double()
    off = (found.double() - right).norm(dim=1)
    rounding = right.norm(dim=1) * 2.0**-24 + 2.0**-149 * right.shape[1] ** 0.5
    allowed = dz.abs() @ other.norm(dim=1)
    return bool((off <= part * allowed + rounding).all()), float((off / allowed)[allowed > 2.0**-100].max())


def check(library, say: Callable, cases: dict = CASES, device: str = "cuda") -> bool:
    all_right = True
    for name, case in cases.items():
        hidden, weight, ids, logprobs, lse = operands(case, device)
        dhidden, dweight, right = gradients(library, hidden, weight, ids, logprobs, lse)
        p = library.logits(hidden, weight).double().softmax(1)
        a = torch.zeros_like(p).scatter_(1, ids, logprobs.double())
        dz = a + p * (lse.double()[:, None] - a.sum(1, keepdim=True))
        errors = []
        for found, turned, other in ((dhidden, dz, weight), (dweight, dz.T, hidden)):
            near, error = is_within(found, turned, other)
            right, errors = right and near, [*errors, round(torch.tensor(error).log2().item(), 2)]
        right = right and not bool(dhidden[6].any())
        for rows in (slice(3, 12), slice(66, 67)):
            some = gradients(library, hidden[rows], weight, ids[rows], logprobs[rows], lse[rows])[0]
            right = right and torch.equal(some, dhidden[rows])
        say("gradients", name, "right" if right else "WRONG", "errors of dhidden and dweight: up to 2 to the", errors)
        all_right = all_right and right
    return all_right
