"""The picture says of each run what its steps say. (python/tests_engines/test_grpo.py makes the runs.)"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

# In a process of its own: what configuration.py sets is for the example alone.
SCRIPT = """
import json, sys
from pathlib import Path

from mismatch import Step
from plot import plot, pyplot

def history(body, head):
    return [Step(0.1 * i, body + head, body, head, 0.001, 0.1, 7, 8) for i in range(3)]

runs = {"bf16": (6e-5, 4e-5), "f32": (6e-5, -1e-12), "isologit": (6e-5, 0.0), "isologit-model": (0.0, 0.0)}
plot({name: [history(*parts)] * 2 for name, parts in runs.items()}, Path(sys.argv[1]))
axes = pyplot.gcf().axes
said = [text.get_text() for each in axes for text in each.texts]
bars = [[round(bar.get_height(), 6) for bar in each.patches] for each in axes[:2]]
print(json.dumps({"said": said, "bars": bars, "reward": list(axes[-1].lines[0].get_ydata())}))
"""


def test_the_picture(tmp_path):
    folder = os.fspath(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT, os.fspath(tmp_path / "plot.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    every = "exactly 0 in every step"
    assert found["said"] == ["head: 40 %", "head: under 0.1 %", f"head: {every}", every]
    assert found["bars"] == [[0.6] * 3 + [0.4] * 3, [0.6] * 3 + [0] * 3]
    assert found["reward"] == pytest.approx([0, 0.1, 0.2])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
