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
        near = np.float32(float(value))  # rounded twice: at most one away
        candidates = [near, *np.nextafter(near, np.float32([-np.inf, np.inf]))]
        return min(candidates, key=lambda one: abs(mpmath.mpf(float(one)) - value))


def cut(z: np.ndarray, min_p: float = 0, top_k: int = 0, top_p: float = 1) -> np.ndarray:
    """The ids that min-p, top-k and top-p leave of one row, in order. Where long doubles cannot tell, it fails."""
    order = np.argsort(-z.astype(np.float64), kind="stable")
    order = order[z[order] > -np.inf]
    mass = np.exp(z[order].astype(np.longdouble) - z[order[0]].astype(np.longdouble))
    kept = mass >= _sure(np.float32(min_p), mass)
    order, mass = order[kept], mass[kept]
    if top_k > 0:
        order, mass = order[:top_k], mass[:top_k]
    if np.float32(top_p) < 1:
        sums = np.cumsum(mass)
        order = order[: 1 + int(np.argmax(sums >= _sure(np.float32(top_p) * sums[-1], sums)))]
    return order


def _sure(bound: np.floating, values: np.ndarray) -> np.longdouble:
    bound = np.longdouble(bound)
    assert bound in (0, 1) or (np.abs(values - bound) > 1e-14 * bound).all()
    return bound


def draw(z: np.ndarray, kept: np.ndarray, seed: int, sequence_id: int, position: int) -> int:
    """The id of `kept` with the greatest z - ln(-ln u) of one row."""
    words = [_words(kept, seed, sequence_id, position, first) for first in (0, 2**31)]
    u = (words[0].astype(np.longdouble) * 2**32 + words[1] + np.longdouble(0.5)) / np.longdouble(2) ** 64
    keys = z[kept].astype(np.longdouble) - np.log(-np.log(u))
    best, *others = np.argsort(-keys, kind="stable")
    assert not others or keys[best] - keys[others[0]] > 1e-12
    return int(kept[best])


def _words(ids: np.ndarray, seed: int, sequence_id: int, position: int, first: int) -> np.ndarray:
    """Philox4x32-10 (Salmon et al., 2011), one word for each id."""
    low = np.uint64(0xFFFFFFFF)
    x = [np.full(len(ids), n, np.uint64) for n in (0, position, sequence_id & 0xFFFFFFFF, sequence_id >> 32)]
    x[0] = ids.astype(np.uint64) // np.uint64(4) + np.uint64(first)
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        products = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [
            (products[1] >> np.uint64(32)) ^ x[1] ^ np.uint64(keys[0]),
            products[1] & low,
            (products[0] >> np.uint64(32)) ^ x[3] ^ np.uint64(keys[1]),
            products[0] & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return np.choose(ids % 4, x)
