"""isologit.parallel of ranks whose tensors are not on the CPU (ranks_elsewhere.py): the bits of one process there, over
a backend that takes no others. What a GPU's own transport does is not in it."""

import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
if not torch.distributed.is_available() or sys.platform == "win32":
    pytest.skip("torch has no distributed package here", allow_module_level=True)
import forked  # noqa: E402

REFUSED = {
    "lora": "NotImplementedError: lora is given, and hidden and the rows of the weight are not all on the CPU; "
    "expected that, or None",
    "fast gradients": "NotImplementedError: arithmetic is 'fast', hidden is on elsewhere:0 and gradients are wanted; "
    "expected arithmetic='exact', or torch.no_grad()",
    "two devices": "ValueError: weight is on cpu, and hidden on elsewhere:0; expected one device",
    "a rank on the CPU": "ParallelError: isologit.parallel.score: hidden is on the CPU is True on rank 1 and False on "
    "rank 0; expected all ranks to make the same call with the same arguments, but for their own rows",
}


@pytest.fixture(scope="module")
def found():
    return forked.told("ranks_elsewhere.py")


@pytest.mark.parametrize("case", ["even", "uneven", "reversed", "padding", "of two"])
def test_the_bits_of_one_process(found, case):
    of_ranks = [rank[f"{case} over of_device"] for rank in found if f"{case} over of_device" in rank]
    assert of_ranks == [[]] * (2 if case == "of two" else 3)


def test_over_a_backend_of_the_cpu(found):
    assert [rank["even over gloo"] for rank in found] == [[]] * 3


@pytest.mark.parametrize("backend", ["of_device", "gloo"])
def test_what_does_not_go_is_told(found, backend):
    assert [rank[f"refused over {backend}"] for rank in found] == [REFUSED] * 3


def test_what_is_run_on_gpus_finds_ranks_on_the_cpu_right():
    script = Path(__file__).resolve().parents[2] / "scripts" / "gpu_parallel.py"
    run = subprocess.run([sys.executable, script, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stdout.count("all right") == 2, run.stdout + run.stderr


def test_sums_of_dhidden_are_added_in_the_order_of_ids(monkeypatch):
    """2^60 + 1 - 2^60 is 0 in f64, and 1 in another order."""
    from isologit.parallel import _elsewhere

    of_ids = {0: 2.0**60, 10: 1.0, 20: -(2.0**60)}
    messages = [struct.pack("<qd", first_id, of_ids[first_id]) for first_id in (20, 0, 10)]
    own_rows = SimpleNamespace(party=1, scatter=lambda sent: messages)
    peers = SimpleNamespace(native=SimpleNamespace(first_id=10), own_rows=own_rows)
    problem = SimpleNamespace(places=torch.tensor([3]))
    monkeypatch.setattr(_elsewhere.gradients, "hidden_sums", lambda _: [(slice(0, 1), torch.tensor([[1.0]]).double())])
    dhidden = torch.full((5, 1), 7.0)
    _elsewhere._share_dhidden(peers, [(0, 3), (3, 5), (5, 5)], problem, dhidden)
    assert dhidden[:, 0].tolist() == [7, 7, 7, 0, 7]
