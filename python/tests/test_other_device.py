"""Everything on a device that is not the CPU (everything_elsewhere.py), in a process of its own: one that has made the
device has it for good, and other tests would see it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def test_everything_on_another_device():
    file = Path(__file__).with_name("everything_elsewhere.py")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", file], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and " passed" in run.stdout, (run.returncode, run.stdout[-4000:], run.stderr)
