"""pytest: the fixture `verify_head`, which fails the test with the table of a head that has not what was asked."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def verify_head() -> Callable[..., Any]:
    """isologit.testing.verify_head; the test fails unless every property holds."""
    from isologit.testing import verify_head

    def verify(fn: Callable[..., Any], **options: Any) -> Any:
        verdict = verify_head(fn, **options)
        if not verdict:
            pytest.fail(verdict.table(), pytrace=False)
        return verdict

    return verify
