"""Megatron Core's own model and loss with the vocabulary split over ranks: the bits of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.distributed.is_available() or sys.platform == "win32":
    pytest.skip("torch has no distributed package here", allow_module_level=True)

from isologit.integrations import _adapter, _table  # noqa: E402


@pytest.fixture(scope="module")
def ranks():
    if _adapter.version(_table.PACKAGES["megatron"]) is None:
        pytest.skip("megatron-core is not installed")
    driver = Path(__file__).with_name("ranks_of_megatron.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, driver], capture_output=True, text=True, timeout=240, cwd=driver.parent, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["untied", "tied", "sequence", "tied, sequence", "its own test"])
def test_results_and_gradients_of_one_process(ranks, case):
    assert len(ranks) == 4
    for found in ranks:
        assert len(found[case]) > 1 and not any(found[case].values()), found[case]
