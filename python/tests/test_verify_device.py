"""isologit verify --device: what goes between the command and this package, and what of it would be seen. Here the
library's own kernels take the torch backend's place, which is slower; that one runs on docs/devices.md."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

from isologit._command import EXECUTABLE  # noqa: E402

pytestmark = pytest.mark.skipif(not os.path.exists(EXECUTABLE), reason="the command is not in the package")

# In the place of Python, which is given -c SCRIPT NAME.
PYTHON = """#!{python}
import os, sys, time
{before}
from types import SimpleNamespace
import torch
from isologit.testing import _device
_device._native = SimpleNamespace(TORCH="")
def changed(operation, change):
    usual = _device._OPERATIONS[operation]
    def run(one):
        results = usual(one)
        change(one, results)
        return results
    _device._OPERATIONS[operation] = run
def up(values):
    values.view(torch.int32)[-1] += 1
{change}
script, sys.argv = sys.argv[2], ["-c", sys.argv[3]]
exec(script)
"""


@pytest.fixture
def python(tmp_path):
    """Makes a program that changes what the package does."""

    def make(change="", before=""):
        program = tmp_path / "python"
        program.write_text(PYTHON.format(python=sys.executable, change=change, before=before))
        program.chmod(0o755)
        return os.environ | {"ISOLOGIT_PYTHON": str(program)}

    return make


def verify(environment, *arguments, device="cpu"):
    command = [EXECUTABLE, "verify", "--device", device, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)


def test_all_is_right_and_prints_are_no_answers(python):
    done = verify(python("changed('linear', lambda one, results: print('hello'))"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stderr.splitlines()) == {"hello"}
    told = json.loads(done.stdout)
    own = subprocess.check_output([EXECUTABLE, "verify", "--kernel", "portable", "--json"], text=True)
    own = json.loads(own)
    assert told["digests"] == own["digests"] and len(told["digests"]) == 6
    for of in ("operations", "properties"):
        values = {one["name"]: one["values"] for one in own[of] if one["name"] not in ("rounding mode", "shards")}
        assert {one["name"]: one["values"] for one in told[of]} == values
        assert {one["kernel"] for one in told[of]} == {"cpu"}


def test_what_is_wrong_is_told(python):
    """One mistake in an operation, of one bit, or an error."""
    done = verify(
        python("""
changed("score", lambda one, results: results["lse"].view(torch.int32).add_(1))
changed("sample", lambda one, results: len(one.hidden) < 4 and up(results["logprobs"]))
changed("logits", lambda one, results: one.threads == 3 and up(results["logits as f32"].reshape(-1)))
changed("gradients", lambda one, results: one.token_ids[0] == -100 and up(results["dhidden"].reshape(-1)))
def nan(one, results):
    if len(one.given) == 18 and one.given.isnan().any():
        up(results["entropy"][:1])
changed("given logits", nan)
changed("decode", lambda one, results: one.x.dtype == torch.float32 and up(results["causal"].reshape(-1)))
def fail(one):
    raise RuntimeError("out of\\nmemory")
_device._OPERATIONS["gates"] = fail
"""),
        "--json",
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["right"] is False
    first = {one["name"]: one["first"] for one in (*told["operations"], *told["properties"])}
    assert first["score"].startswith("normal: bf16 lse[0]: 0x")
    assert first["slices"].startswith("bf16 sample: rows 0 to 0 alone: logprobs[0]: 0x")
    assert first["threads"].startswith("bf16 logits: threads 3: logits as f32[17, 69]: 0x")
    assert first["order"].startswith("bf16 gradients: in another order: dhidden[17, 20]: 0x")
    assert first["neighbours"].startswith("bf16 given logits: between rows of NaN: entropy[0]: 0x")
    assert first["decode"].startswith("f32 attention token by token: causal[4, 79]: 0x")
    assert first["gates"] == "RuntimeError: out of memory"
    assert {name for name, of in first.items() if of is None} == {
        "logits", "sample", "gradients", "given logits", "linear", "norms", "residual", "rotary", "attention",
    }  # fmt: skip


def test_its_end_is_told(python):
    done = verify(python("changed('score', lambda one, results: os._exit(7))"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "isologit: --device cpu: '" in done.stderr and "has ended with exit status 7\n" in done.stderr


def test_without_torch(python):
    done = verify(python(before="sys.modules['torch'] = None; exec(sys.argv[2], {**globals(), 'sys': sys})"))
    assert done.returncode == 1
    assert "isologit with torch, and " in done.stderr and "has no module 'torch': pip install " in done.stderr


def test_devices_that_are_none():
    environment = os.environ | {"ISOLOGIT_PYTHON": sys.executable}
    done = verify(environment, device="gpu")
    assert done.returncode == 2 and "--device: 'gpu': " in done.stderr and "; there are cpu" in done.stderr
    done = verify(environment, device="cuda:77")
    assert done.returncode == 1 and "--device: 'cuda:77' is not usable: " in done.stderr, done.stderr


def test_a_signal_ends_both(python, tmp_path):
    note = tmp_path / "pid"
    environment = python(f"""
def wait(one, results):
    open({str(note)!r}, "w").write(str(os.getpid()) + ";")
    time.sleep(300)
changed("logits", wait)
""")
    command = [EXECUTABLE, "verify", "--device", "cpu"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as running:
        for _ in range(1200):
            if note.exists() and note.read_text().endswith(";"):
                break
            time.sleep(0.1)
        begin = time.monotonic()
        running.terminate()
        assert running.wait(60) == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 30
        assert running.stderr.read() == b"isologit: interrupted; nothing was written\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text().rstrip(";")), 0)
