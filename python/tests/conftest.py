import pytest


@pytest.fixture
def rng():
    import numpy

    return numpy.random.default_rng(20260)
