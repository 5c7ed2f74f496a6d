"""The operators of a forward pass by CONTRACT.md 10, in rational arithmetic and mpmath with many digits."""

from fractions import Fraction

import mpmath
import torch
from expected import round_once

mpmath.mp.prec = 400


def _real(x) -> mpmath.mpf:
    return mpmath.mpf(x)


def _rounded(value: mpmath.mpf, dtype: torch.dtype) -> float:
    mantissa, exponent = value.man_exp  # of the magnitude
    sign = -1 if value < 0 else 1
    return round_once(sign * Fraction(int(mantissa)) * Fraction(2) ** exponent, dtype)


def _map(x: torch.Tensor, rows) -> torch.Tensor:
    """Row by row, of the last dimension."""
    flat = [rows(index, row) for index, row in enumerate(x.double().reshape(-1, x.shape[-1]).tolist())]
    return torch.tensor(flat, dtype=torch.float64).reshape(x.shape).to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, one_plus_weight: bool = False) -> torch.Tensor:
    epsilon = torch.tensor(epsilon, dtype=torch.float32).item()
    w = [_real(v) + (1 if one_plus_weight else 0) for v in weight.double().tolist()]

    def row(_, values):
        root = mpmath.sqrt(sum(_real(v) ** 2 for v in values) / len(values) + _real(epsilon))
        return [_rounded(_real(v) * g / root, x.dtype) for v, g in zip(values, w, strict=True)]

    return _map(x, row)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
    epsilon = torch.tensor(epsilon, dtype=torch.float32).item()

    def row(_, values):
        mean = sum(map(_real, values)) / len(values)
        root = mpmath.sqrt(sum((_real(v) - mean) ** 2 for v in values) / len(values) + _real(epsilon))
        factors = zip(values, weight.double().tolist(), bias.double().tolist(), strict=True)
        return [_rounded((_real(v) - mean) * g / root + b, x.dtype) for v, g, b in factors]

    return _map(x, row)


def silu(g: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    ups = up.double().reshape(-1, up.shape[-1]).tolist()
    return _map(
        g,
        lambda i, row: [
            _rounded(_real(v) * u / (1 + mpmath.exp(-_real(v))), g.dtype) for v, u in zip(row, ups[i], strict=True)
        ],
    )


def frequencies(theta: float, dim: int, divisor: float = 1.0) -> torch.Tensor:
    exact = [_real(theta) ** (_real(-2 * j) / dim) / divisor for j in range(dim // 2)]
    return torch.tensor([_rounded(value, torch.float32) for value in exact])


def yarn(theta: float, dim: int, scaling: dict) -> torch.Tensor:
    factor = _real(torch.tensor(scaling["factor"], dtype=torch.float32).item())

    def place(turns):
        context = _real(scaling["original_max_position_embeddings"])
        return dim * mpmath.log(context / (2 * mpmath.pi * turns)) / (2 * mpmath.log(_real(theta)))

    low, high = place(scaling.get("beta_fast", 32.0)), place(scaling.get("beta_slow", 1.0))
    if scaling.get("truncate", True):
        low, high = mpmath.floor(low), mpmath.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    found = []
    for j in range(dim // 2):
        plain = _real(theta) ** (_real(-2 * j) / dim)
        ramp = min(max((j - low) / (high - low), 0), 1)
        found.append(_rounded(plain * (1 - ramp) + plain / factor * ramp, torch.float32))
    return torch.tensor(found)


def rotary(x: torch.Tensor, positions: torch.Tensor, frequencies: torch.Tensor, layout: str) -> torch.Tensor:
    pairs = len(frequencies)
    heads = x.shape[-2]
    places = positions.reshape(-1).tolist()

    def row(index, values):
        result = list(values)
        for j, frequency in enumerate(frequencies.tolist()):
            angle = _real(places[index // heads]) * _real(frequency)
            one, two = (j, j + pairs) if layout == "halves" else (2 * j, 2 * j + 1)
            a, b = _real(values[one]), _real(values[two])
            cosine, sine = mpmath.cos(angle), mpmath.sin(angle)
            result[one] = _rounded(a * cosine - b * sine, x.dtype)
            result[two] = _rounded(b * cosine + a * sine, x.dtype)
        return result

    return _map(x, row)


def attention(q, keys, values, seen, scale: float, softcap: float = 0.0, sinks=None) -> torch.Tensor:
    """Of one sequence; seen(i) are the keys that query i sees."""
    scale = torch.tensor(scale, dtype=torch.float32).item()
    group = q.shape[1] // keys.shape[1]
    result = torch.zeros(*q.shape[:2], values.shape[-1], dtype=q.dtype)
    for i in range(q.shape[0]):
        for h in range(q.shape[1]):
            weights = {}
            for j in seen(i):
                products = zip(q[i, h].tolist(), keys[j, h // group].tolist(), strict=True)
                score = _real(scale) * sum(_real(a) * _real(b) for a, b in products)
                weights[j] = mpmath.exp(softcap * mpmath.tanh(score / softcap) if softcap else score)
            total = sum(weights.values()) + (0 if sinks is None else mpmath.exp(_real(sinks[h].item())))
            for d in range(values.shape[-1]):
                mean = sum(w * _real(values[j, h // group, d].item()) for j, w in weights.items()) / total
                result[i, h, d] = _rounded(mean, q.dtype)
    return result
