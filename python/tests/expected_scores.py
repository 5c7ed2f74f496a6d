"""CONTRACT.md 3 by mpmath: what a row's logits say, each result rounded once to f32."""

from expected import round_once
from expected_gradients import fraction, real
from mpmath import mp

DIGITS = 100


def of_row(z: list[float], raw: list[float], support: list[int], ids: list[int], top_k: int = 0) -> dict:
    """Of finite logits: z the last ones, raw those without temperature. By name; several ids give lists."""
    with mp.workdps(DIGITS):

        def rounded(x):
            return round_once(fraction(mp.mpf(x)))

        def log_mass(values, of):
            return mp.log(mp.fsum(mp.exp(real(values[v])) for v in of))

        everything = range(len(z))
        lse = log_mass(z, support)
        p = [mp.exp(real(z[v]) - lse) for v in support]
        order = sorted(support, key=lambda v: (-z[v], v))
        top = (order + [-1] * top_k)[:top_k]

        def logprob(v):
            return rounded(real(z[v]) - lse) if v in support else -mp.inf

        return {
            "logprobs": [float(logprob(t)) for t in ids],
            "lse": rounded(lse),
            "entropy": rounded(-mp.fsum(x * mp.log(x) for x in p)),
            "argmax": order[0],
            "rank": [order.index(t) + 1 if t in order else 0 for t in ids],
            "raw_logprobs": [rounded(real(raw[t]) - log_mass(raw, everything)) for t in ids],
            "sum_p2": rounded(mp.fsum(x * x for x in p)),
            "log_kept": rounded(lse - log_mass(z, everything)) if len(support) < len(z) else 0.0,
            "mean_logits": rounded(mp.fsum(real(z[v]) for v in support) / len(support)),
            "top_k_ids": top,
            "top_k_logprobs": [float(logprob(v)) for v in top],
        }
