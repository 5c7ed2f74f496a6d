"""Hostile operands, and the table of them on the page about tests."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
import operands  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs/testing.md"
CASES = list(operands.cases())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of forward mode
@pytest.mark.parametrize("kind", operands.CAMPAIGN)
def test_operands_are_refused_by_name_or_answered_rightly(kind):
    wrong = [f"{case.name}: {why}" for case in CASES if case.kind == kind and (why := operands.problem(case))]
    assert not wrong, "\n".join(wrong)


def test_the_page_shows_this_table():
    assert "\n".join(operands.table(CASES)) in PAGE.read_text()
