"""The rows and the weight that heads are tried on: of Philox words, by integer arithmetic, the same everywhere."""

from dataclasses import dataclass

import numpy as np

from isologit.testing._arrays import rounded


@dataclass
class Data:
    """f32 arrays of numbers of the head's type."""

    hidden: np.ndarray  # [N, H]
    weight: np.ndarray  # [V, H]
    ids: np.ndarray  # [N]

    @classmethod
    def make(cls, shape: tuple[int, int, int], dtype: str) -> "Data":
        rows, vocab, cols = shape
        # Logits of deviation near 2; every third row eight times that, and every sixth 64 times: all but certain.
        scale = 2.0 ** -round(np.log2(cols) / 2)
        hidden = normal(1, rows, cols)
        hidden[::3] *= 8
        hidden[::6] *= 8
        hidden, weight = rounded(hidden, dtype), rounded(2 * scale * normal(2, vocab, cols), dtype)
        greatest = (hidden.astype(np.float64) @ weight.astype(np.float64).T).argmax(-1)
        drawn = words(3, rows).astype(np.int64) % vocab
        return cls(hidden, weight, np.where(np.arange(rows) % 2 == 0, greatest, drawn))


def words(stream: int, count: int) -> np.ndarray:
    """64 bits each, by a stream of their own."""
    return np.random.Philox(key=[stream, 0]).random_raw(count)


def normal(stream: int, rows: int, cols: int) -> np.ndarray:
    """Near to normal, variance 4/3: four numbers of 16 bits added up."""
    bits = words(stream, rows * cols)
    total = sum(((bits >> np.uint64(by)) & np.uint64(0xFFFF)).astype(np.int64) for by in (0, 16, 32, 48)) - 131070
    return (total * 2.0**-15).astype(np.float32).reshape(rows, cols)
