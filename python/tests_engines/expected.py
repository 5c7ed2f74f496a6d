"""What an engine must return, computed without the library: sums in exact or wide arithmetic, one rounding."""

import math

import mpmath
import numpy as np


def bits(values) -> list[int]:
    return np.asarray(values, dtype=np.float32).view(np.uint32).tolist()


def rounded(value: np.longdouble, bound: np.longdouble) -> np.float32 | None:
    """value rounded to f32, if all within bound of it round alike."""
    low, high = np.float32(value - bound), np.float32(value + bound)
    return low if low == high else None


def logits(hidden: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """[V] f32 of one row of bf16 hidden states and a bf16 weight, both given as f32. Products of bf16 are exact in
    f64, and fsum rounds their sum once, to f64: a second rounding is harmless unless it starts from a midpoint."""
    out = np.empty(weight.shape[0], dtype=np.float32)
    for row, products in enumerate(weight.astype(np.float64) * hidden.astype(np.float64)):
        terms = products.tolist() + ([] if bias is None else [float(bias[row])])
        sum64 = math.fsum(terms)
        out[row] = np.float32(sum64)
        neighbours = np.nextafter(out[row], np.float32([-np.inf, np.inf])).astype(np.float64)
        if sum64 in (neighbours + np.float64(out[row])) / 2:
            rest = math.fsum([*terms, -sum64])
            if rest:  # the side of the midpoint on which the sum lies
                out[row] = np.float32(np.nextafter(sum64, math.inf if rest > 0 else -math.inf))
    return out


def log_softmax(final: np.ndarray, ids) -> np.ndarray:
    """[len(ids)] f32: RN32(z_t - ln(sum of e^z)) of one row of f32 logits."""
    z = final.astype(np.longdouble)
    top = int(np.argmax(z))
    others = np.exp(z - z[top])
    others[top] = 0
    rest = others.sum()
    epsilon = np.finfo(np.longdouble).eps
    result = []
    for token in ids:
        if np.isneginf(final[token]):
            result.append(-np.inf)
            continue
        gap = z[token] - z[top]
        value = gap - np.log1p(rest)
        near = rounded(value, (abs(gap) + np.log1p(rest)) * epsilon * 2 * len(final))
        result.append(_log_softmax_of_one(final, token) if near is None else near)
    return np.asarray(result, dtype=np.float32)


def _log_softmax_of_one(final: np.ndarray, token: int) -> np.float32:
    with mpmath.workdps(60):
        z = [mpmath.mpf(float(value)) for value in final if value != -np.inf]
        value = mpmath.mpf(float(final[token])) - mpmath.log(mpmath.fsum(mpmath.exp(x) for x in z))
        wide = np.longdouble(mpmath.nstr(value, 40))
        return np.float32(wide)
