"""scripts/soak for a moment: that it finds nothing, and would find something."""

import importlib.machinery
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[2] / "scripts" / "soak"


@pytest.fixture
def soak():
    """Its module; the handler of the signal that it sets is the former one again afterwards."""
    loader = importlib.machinery.SourceFileLoader("soak", str(FILE))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("soak", loader))
    loader.exec_module(module)
    former = signal.getsignal(signal.SIGALRM)
    yield module
    signal.signal(signal.SIGALRM, former)


def test_a_moment_of_all_calls_changes_no_bit(soak):
    found = soak.Soak((*soak.CALLS, *soak.gradients()))
    found.run(1.0, threads=3)
    assert found.wrong == [] and found.made > 0 and found.interrupted > 0


def test_a_changed_bit_is_told(soak):
    calls = []

    def changing(which, **run):
        calls.append(which)
        return (np.array([len(calls) > 5]),)

    found = soak.Soak((changing,))
    found.run(0.2, threads=2)
    assert found.wrong[0].startswith("changing of problem ") and found.wrong[0].endswith("other bits")


def test_what_a_thread_raises_is_told(soak):
    def failing(which, **run):
        if run:
            raise ValueError("no answer")
        return ()

    found = soak.Soak((failing,))
    found.end = float("inf")
    found.work(seed=1)
    assert found.wrong == ["ValueError: no answer"]


def test_memory_that_is_kept_is_told(soak):
    kept = []

    def keeping(which, **run):
        kept.append(np.ones(1 << 12))
        return ()

    assert soak.Soak((keeping,)).run(1.0, threads=1) > soak.MOST_GROWTH


def test_the_command_says_what_it_found():
    command = [sys.executable, FILE, "--seconds", "0.5", "--threads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    *wrong, last = done.stdout.splitlines()
    assert last.startswith("soak: ") and last.endswith(f" of growth, {len(wrong)} wrong"), done.stderr
    assert done.returncode == (1 if wrong else 0)
    # Half a second is too short to have made all kinds of calls before growth is measured.
    assert all(text.startswith("wrong: memory grew by ") for text in wrong)
