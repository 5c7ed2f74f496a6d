"""How much is computed at a time. No number here changes a bit of any result; together they keep what a call allocates
beyond operands and results below 256 MiB."""

from collections.abc import Iterator

# Elements of f64: of a block of weight rows (32 MiB) and of hidden rows, of their products (4 MiB each of some sixteen
# that live at a time), and of the operands of open logits (4 MiB each of some twelve).
OPERAND = 2**22
PRODUCTS = 2**19
PAIRS = 2**19
# Bytes of whole rows of f32 logits, and of a mask beside them.
ROWS = 2**26


def slices(count: int, step: int) -> Iterator[slice]:
    """Of so many things, `step` at a time, or 1 if that is less."""
    step = max(1, step)
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))
