"""What is installed: one wheel for every Python 3, the library and the command in it."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import isologit


@pytest.fixture
def distribution():
    try:
        found = importlib.metadata.distribution("isologit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("isologit is not installed from a wheel")
    assert Path(isologit.__file__).is_relative_to(Path(str(found.locate_file("."))).resolve())
    return found


def test_tag_and_version(distribution):
    wheel = distribution.read_text("WHEEL")
    tags = [line.removeprefix("Tag: ") for line in wheel.splitlines() if line.startswith("Tag: ")]
    assert tags and all(tag.startswith("py3-none-") and not tag.endswith("-any") for tag in tags)
    assert distribution.version == isologit.version() == isologit.__version__


def test_torch_is_not_required(distribution):
    needed = [need for need in distribution.requires if "extra ==" not in need]
    assert needed and all(need.startswith("numpy") for need in needed)


def test_the_command(distribution):
    command = Path(sys.prefix) / "bin" / "isologit"
    done = subprocess.run([os.fspath(command), "kernels"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert all(kernel.name in done.stdout for kernel in isologit.kernels())
    assert subprocess.run([os.fspath(command), "nonsense"], capture_output=True).returncode == 2
