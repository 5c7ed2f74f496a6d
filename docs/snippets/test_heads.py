"""A kernel's invariances in its own tests: run by pytest, with isologit installed."""

from heads import right, usual

INVARIANT = ("slices", "position", "padding", "neighbours", "permutation", "chunks", "threads", "purity", "nan")


def test_right(verify_head):
    verify_head(right)


def test_usual(verify_head):
    verdict = verify_head(usual, properties=(*INVARIANT, "weight update", "not above 0"))
    assert verdict["slices"].compared > 0
