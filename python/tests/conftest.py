import gc
import sys

import pytest


def pytest_collection_finish():
    """What all the tests' modules have imported is there to stay: looked at each time, it makes collecting garbage what
    many tests take longest for."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def torchs_functions():
    """Right at their first call too, for the tests' own references (isologit/_torch/first_calls.py)."""
    if "torch" in sys.modules:
        import isologit._torch  # noqa: F401


@pytest.fixture
def rng():
    import numpy

    return numpy.random.default_rng(20260)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of one rank."""
    dist = pytest.importorskip("torch").distributed
    if not dist.is_available():
        pytest.skip("torch has no distributed package here")
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()
