"""Data parallelism over gloo: DDP and FSDP2 have the gradients of one process, each row its logprobs or its loss: the
same bits."""

import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not torch.distributed.is_available() or sys.platform == "win32":
    pytest.skip("torch has no distributed package here", allow_module_level=True)
import forked  # noqa: E402


@pytest.fixture(scope="module")
def ranks():
    return forked.told("ranks_of_a_model.py")


def test_results_and_gradients_of_one_process(ranks):
    assert len(ranks) == 2
    for found in ranks:
        assert len(found) == 13 and len(found["labels, ddp"]) == 25
        assert {name: different for name, different in found.items() if any(different.values())}.keys() == {"none"}


def test_without_a_wrapper_gradients_are_of_the_ranks_own_row(ranks):
    for found in ranks:
        result, *gradients = found["none"].values()
        assert result == 0 and all(gradients)
