"""What ranks say over connections that are slow, stall or break, and of one that is killed, late or different: an error
on every rank within the group's time-out, or the right result. Never another one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
if not torch.distributed.is_available() or not sys.platform.startswith("linux"):
    pytest.skip("needs torch.distributed and a loopback network with many addresses", allow_module_level=True)

from failing_groups import SAID, table  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs/parallel.md"
SECONDS = 2  # the time-out of the groups that wait for it; of the others it is 30


@pytest.fixture(scope="module")
def found():
    driver = Path(__file__).with_name("failing_groups.py")
    done = subprocess.run([sys.executable, driver], capture_output=True, text=True, timeout=240, cwd=driver.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("scenario", SAID)
def test_every_rank_has_an_error_or_the_right_result(found, scenario, size):
    ranks = found[scenario][str(size)]
    assert len(ranks) == size
    for rank, told in enumerate(ranks):
        if scenario.startswith("killed") and rank == 1:
            assert told == {"exit": -9}
            continue
        assert SAID[scenario] in told["found"], (rank, told)
        late = 2.5 * SECONDS if scenario.startswith("too late") and rank == 1 else 0
        assert told["seconds"] < late + SECONDS + 5 and told["exit"] == 0  # 5: a busy machine
    assert ranks[0]["passed"] > 0  # the relay did carry what ranks sent


def test_the_page_shows_what_they_said(found):
    shown = "\n".join(table(found))
    assert shown in PAGE.read_text(), f"{PAGE.name} has another table than\n{shown}"
