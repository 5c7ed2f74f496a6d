"""Fast gradients of the CUDA library, beside those of torch's f64 of the same logits: within CONTRACT 5's bound, with
rows of a size that parts of bf16 cannot take, rows of zeros and great upstreams among them, and rows of dhidden that no
other row changes."""

import sys
from collections.abc import Callable

import torch
from gpu_inputs import BF16, F16, F32, matrix
from torch import Tensor

# vocabulary, depth, rows, type of hidden and weight, the exponent of what an upstream is multiplied with, how a support
# is said
CASES = {
    "bf16": (5000, 896, 200, BF16, 0, ""),
    "bf16, odd depth": (2500, 133, 70, BF16, 0, ""),
    "bf16, great upstream": (2500, 896, 1100, BF16, 90, ""),
    "f16": (2500, 136, 70, F16, 0, ""),
    "f32": (2500, 136, 70, F32, 0, ""),
    "masks": (5000, 896, 200, BF16, 0, "masks"),
    "one mask": (2500, 136, 1100, BF16, 0, "mask"),
    "kept ids": (2500, 136, 70, F16, 0, "kept"),
    "banned ids": (2500, 136, 70, F32, 0, "banned"),
    "small": (300, 136, 70, BF16, 0, ""),
    "small, kept ids": (300, 136, 70, BF16, 0, "kept"),
}


def operands(case: tuple, device: str) -> tuple[Tensor, ...]:
    """hidden, weight, ids [N, 1], upstreams of logprobs [N, 1], lse and mean_logits [N], and which ids are in a row's
    support, bool [N, V]."""
    vocab, depth, rows, dtype, great, said = case
    hidden, weight = matrix(rows, depth, 2, device, dtype, "normal"), matrix(vocab, depth, 1, device, dtype, "normal")
    weight *= 2.0**-5
    weight[-40:] = 0
    if dtype != F16:
        weight[100] *= 2.0**-110
        weight[101] *= 2.0**-60
        hidden[66] *= 2.0**-112
    ids = (torch.arange(rows, device=device) * 577 % vocab)[:, None]
    logprobs, lse, mean = (matrix(1, rows, seed, device, F32, "normal").view(-1) for seed in (3, 4, 5))
    for upstream in (logprobs, lse, mean):
        upstream[4] *= 2.0**great
        upstream[5] *= 2.0**-90
        upstream[6] = 0
    mean = mean if said else torch.zeros_like(mean)
    return hidden, weight, ids, logprobs[:, None], lse, mean, support_of(rows, vocab, said, device)


def support_of(rows: int, vocab: int, said: str, device: str) -> Tensor:
    """Some ids of each row, none of row 7, one of row 8; the same of all for one mask; where nothing is said all."""
    row, v = torch.arange(rows, device=device)[:, None], torch.arange(vocab, device=device)
    if said in ("", "mask"):
        return ((v % 3 != 1) | (said == "")).expand(rows, vocab)
    stays = (v * 7 + row * 3) % (2 + row % 9) == 0
    stays[7:9] = False
    stays[8, 5] = True
    return stays


def arguments_of(stays: Tensor, said: str) -> dict:
    if said in ("kept", "banned"):
        listed = stays if said == "kept" else ~stays
        counts = listed.sum(1)
        return {said: (torch.cat([counts.new_zeros(1), counts.cumsum(0)]), listed.nonzero()[:, 1].contiguous())}
    return {"mask": stays[:1] if said == "mask" else stays} if said else {}


def gradients(library, given: tuple[Tensor, ...], said: str, keeps: bool = False) -> tuple:
    """keeps: from what a forward pass keeps of the rows."""
    hidden, weight, ids, logprobs, lse, mean, stays = given
    head, support = sys.modules[type(library).__module__].Head(hidden, weight), arguments_of(stays, said)
    summaries = torch.empty(len(hidden), 5, dtype=torch.float64, device=hidden.device) if keeps else None
    if keeps:
        library.score(head, ids, summaries=summaries, **support)
    made = [torch.full(x.shape, torch.nan, device=x.device) for x in (hidden, weight)]
    upstreams = {"d_logprobs": logprobs, "d_lse": lse, "d_mean_logits": mean, "summaries": summaries}
    status = library.backward(head, ids, **upstreams, dhidden=made[0], dweight=made[1], **support)
    return *made, not bool(status.any())


def derivatives(library, given: tuple[Tensor, ...]) -> Tensor:
    """dz [N, V] in torch's f64."""
    hidden, weight, ids, logprobs, lse, mean, stays = given
    z = library.logits(hidden, weight).double().masked_fill(~stays, -torch.inf)
    p = z.softmax(1).nan_to_num(0.0)  # of an empty support
    a = torch.zeros_like(p).scatter_(1, ids, logprobs.double())
    each = mean.double()[:, None] / stays.sum(1, keepdim=True).clamp(min=1)
    return torch.where(stays, a + each, 0.0) + p * (lse.double()[:, None] - a.sum(1, keepdim=True))


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
        given, said = operands(case, device), case[-1]
        hidden, weight, dz = *given[:2], derivatives(library, given)
        errors, right = [], True
        for keeps in (False, True) if said else (False,):
            dhidden, dweight, proven = gradients(library, given, said, keeps)
            right = right and proven
            for found, turned, other in ((dhidden, dz, weight), (dweight, dz.T, hidden)):
                near, error = is_within(found, turned, other)
                right, errors = right and near, [*errors, round(torch.tensor(error).log2().item(), 2)]
            right = right and not bool(dhidden[6].any())
        for rows in (slice(3, 12), slice(66, 67)):
            some = tuple(x if x is weight else x[rows] for x in given)
            right = right and torch.equal(gradients(library, some, said, bool(said))[0], dhidden[rows])
        say("gradients", name, "right" if right else "WRONG", "errors of dhidden and dweight: up to 2 to the", errors)
        all_right = all_right and right
    return all_right
