"""The example runs, and the exact head's share of the mismatch is nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_a_short_run():
    script = Path(__file__).with_name("grpo.py")
    done = subprocess.run(
        [sys.executable, os.fspath(script), "--steps", "2"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("rollout head") :].splitlines()[1:4]
    rows = {line.split()[0]: [float(x.strip(",")) for x in line.split()[1:]] for line in table}
    assert list(rows) == ["bf16", "f32", "isologit"]
    for first, last, whole, share, gap in rows.values():
        assert 0 < first < 1 and 0 < last < 1 and whole > 1e-7 and share >= 0 and gap >= 0
    assert rows["isologit"][3:] == [0, 0]
    assert rows["bf16"][3] > 100 * rows["f32"][3] > 0 and rows["bf16"][4] > 1e-3
