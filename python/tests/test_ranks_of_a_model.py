"""Data parallelism over gloo: DDP and FSDP2 have the gradients of one process, each row its logprobs or its loss: the
same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not torch.distributed.is_available() or sys.platform == "win32":
    pytest.skip("torch has no distributed package here", allow_module_level=True)


@pytest.fixture(scope="module")
def ranks():
    driver = Path(__file__).with_name("ranks_of_a_model.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, driver], capture_output=True, text=True, timeout=240, cwd=driver.parent, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_results_and_gradients_of_one_process(ranks):
    assert len(ranks) == 2
    for found in ranks:
        assert len(found) == 11 and len(found["labels, ddp"]) == 25
        assert {name: different for name, different in found.items() if any(different.values())}.keys() == {"none"}


def test_without_a_wrapper_gradients_are_of_the_ranks_own_row(ranks):
    for found in ranks:
        result, *gradients = found["none"].values()
        assert result == 0 and all(gradients)
