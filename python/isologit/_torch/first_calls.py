"""One thread calls each function of torch first.

On a CPU torch takes them of oneMKL, which looks for a function's code when it is first called. Where several threads do
that at once, one of them may run a code of half the precision for this one call
(https://github.com/pytorch/pytorch/issues/188792), be it this package's, a trainer's or a model's that it looks into.
"""

import torch

FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2", "expm1"),
    *("log", "log10", "log1p", "log2", "sin", "sinh", "sqrt", "tan", "tanh"),
)


def resolve() -> None:
    for dtype in (torch.float32, torch.float64):
        for name in FUNCTIONS:
            getattr(torch, name)(torch.full((1,), 0.5, dtype=dtype, device="cpu"))
