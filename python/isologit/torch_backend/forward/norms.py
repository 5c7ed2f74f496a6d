"""RMSNorm and LayerNorm, y = (x - mean) r w + b with r = 1 / sqrt(mean (x - mean)^2 + epsilon).

In f64, u = 2^-53, H = dim: a sum of squares is within H u of itself in any order; a division by H is within 2 u (torch
may multiply by a reciprocal), adding epsilon and the reciprocal of the root round once each, the root is within
FUNCTION_ERROR = 8 u (oneMKL's is not always the nearest number) and halves what came before: H / 2 + 11 in all. The
mean is within (H + 2) u of the mean of magnitudes; the deviations' mean of squares is the variance, plus the square of
the mean's error.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isologit import _forward_calls as calls
from isologit import _native
from isologit._torch import cuda
from isologit.torch_backend import folds
from isologit.torch_backend.forward import rows
from isologit.torch_backend.forward.rows import UNIT
from isologit.torch_backend.rounding import rounded


class _Norm(NamedTuple):
    weight: Tensor | None
    bias: Tensor | None
    epsilon: float
    one_plus_weight: bool
    centred: bool

    def factors(self) -> Tensor | float:
        if self.weight is None:
            return 1.0
        return self.weight.double() + 1 if self.one_plus_weight else self.weight.double()


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, one_plus_weight: bool, *running: Any) -> Tensor:
    norm = _Norm(weight, None, rows.f32(epsilon), one_plus_weight, False)
    rows.check(x, running)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if running[-1] != _native.TORCH and cuda.rms_norm(x, weight, norm.epsilon, one_plus_weight, y):
        return y
    calls.rms_norm(torch.zeros(1, 1), None, epsilon, False, 0, [], "")  # says what is wrong with epsilon

    def by_core(some: Tensor) -> Tensor:
        return calls.rms_norm(some, rows.on_cpu(weight), epsilon, one_plus_weight, 0, [], "")

    return _run(x, norm, y, by_core)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, *running: Any) -> Tensor:
    norm = _Norm(weight, bias, rows.f32(epsilon), False, True)
    rows.check(x, running)
    calls.layer_norm(torch.zeros(1, 1), None, None, epsilon, 0, [], "")  # says what is wrong with epsilon

    def by_core(some: Tensor) -> Tensor:
        return calls.layer_norm(some, rows.on_cpu(weight), rows.on_cpu(bias), epsilon, 0, [], "")

    return _run(x, norm, torch.empty(x.shape, dtype=x.dtype, device=x.device), by_core)


def _run(x: Tensor, norm: _Norm, y: Tensor, by_core: Callable[[Tensor], Tensor]) -> Tensor:
    flat, to = x.reshape(-1, x.shape[-1]), y.view(-1, x.shape[-1])
    for part in rows.slices(len(flat), x.shape[-1]):
        given = flat[part]
        value, error = _values(given.double(), norm)
        to[part] = rows.finished(
            value, error, x.dtype, lambda open_, given=given: by_core(rows.on_cpu(given, open_))
        )
    return y


def _values(x: Tensor, norm: _Norm) -> tuple[Tensor, Tensor]:
    size = x.shape[1]
    shift_error = 0.0
    if norm.centred:
        shift_error = _mean(x.abs()) * ((size + 3) * UNIT * 1.001)
        x = x - _mean(x)
    mean = _mean(x * x) + norm.epsilon
    r = 1 / mean.sqrt()
    share = (size + 16) * UNIT + 1.01 * shift_error * shift_error / mean
    # Zeros and NaN under the root, and a variance that its own error may be, are the core's.
    share = torch.where((mean > 0) & (share < 0.01), share, torch.inf)
    factors = norm.factors()
    value = x * r * factors
    error = value.abs() * (1.01 * share + 8 * UNIT)
    if norm.centred:
        error = error + (factors * r).abs() * (1.02 * shift_error)
    if norm.bias is not None:
        value = value + norm.bias.double()
        error = error + value.abs() * (2 * UNIT)
    return value, error


def _mean(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True) / x.shape[1]


def rms_norm_backward(
    x: Tensor,
    weight: Tensor | None,
    epsilon: float,
    one_plus_weight: bool,
    dy: Tensor,
    wanted: list[bool],
    *running: Any,
) -> tuple[Tensor, Tensor]:
    found = _gradients(x, dy, _Norm(weight, None, rows.f32(epsilon), one_plus_weight, False), [*wanted, False])
    return found[:2]


def layer_norm_backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    dy: Tensor,
    wanted: list[bool],
    *running: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x, dy, _Norm(weight, bias, rows.f32(epsilon), False, True), wanted)


def _gradients(x: Tensor, dy: Tensor, norm: _Norm, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """dx_i = r (u_i - mean(u) - d_i r mean(u d r)), u = dy w, d the deviations, without mean(u) where there is no mean;
    dw = sum of dy d r, dbias = sum of dy over the rows."""
    size = x.shape[-1]
    dx = rows.like(x, wanted[0], x)
    flat, upstream = x.reshape(-1, size), dy.reshape(-1, size)
    sums: list[list[Tensor]] = [[], []]
    for part in rows.slices(len(flat), size):
        d, up = flat[part].double(), upstream[part].double()
        for _ in range(2 if norm.centred else 0):  # the second is of what the first leaves, however large the mean is
            d = d - folds.tree_sum(d) / size
        r = 1 / (folds.tree_sum(d * d) / size + norm.epsilon).sqrt()
        d = d * r
        for terms, wants, sum_ in ((up * d, wanted[1], sums[0]), (up, wanted[2], sums[1])):
            if wants:
                sum_.append(folds.tree_sum(terms.T).T)
        if wanted[0]:
            up = up * norm.factors()
            shift = folds.tree_sum(up) / size if norm.centred else 0.0
            made = r * (up - shift - d * (folds.tree_sum(up * d) / size))
            dx.view(-1, size)[part] = rounded(made, x.dtype)
    vectors = (norm.weight, norm.bias)
    found = [_summed(*of, x) for of in zip(vectors, sums, wanted[1:], strict=True)]
    return dx, *found


def _summed(vector: Tensor | None, parts: list[Tensor], wants: bool, x: Tensor) -> Tensor:
    if not wants:
        return rows.none_like(vector, x)
    if not parts:
        return torch.zeros_like(vector)
    return rounded(folds.tree_sum(torch.cat(parts).T)[:, 0], vector.dtype)
