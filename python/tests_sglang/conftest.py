"""SGLang's own code from its wheel, on the CPU: a whole engine, and its layers in the process of the tests."""

import atexit
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests_engines")]  # expected.py
os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
os.environ["SGLANG_PLUGINS"] = "isologit,recorder"
os.environ["HF_HUB_OFFLINE"] = "1"

EXAMPLE = HERE.parents[1] / "examples" / "tiny-qwen3"
CPU = {"device": "cpu", "attention_backend": "torch_native", "sampling_backend": "pytorch"}
CPU |= {"grammar_backend": "none", "disable_overlap_schedule": True, "max_total_tokens": 2048}


def stop(engine) -> None:
    engine.shutdown()
    atexit.unregister(engine.shutdown)  # it would log when there is no output any more


@pytest.fixture(scope="session")
def model() -> Path:
    return EXAMPLE


@pytest.fixture(scope="session")
def recorder(tmp_path_factory) -> Path:
    """The folder that the recorder writes to; the recorder itself is now a package with an entry point."""
    packages = tmp_path_factory.mktemp("packages")
    about = packages / "recorder-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recorder\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[sglang.srt.plugins]\nrecorder = recorder:register\n")
    sys.path.insert(0, str(packages))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(packages), str(HERE), os.environ["PYTHONPATH"]])
    records = tmp_path_factory.mktemp("records")
    os.environ["RECORDER_FOLDER"] = str(records)
    return records


@pytest.fixture(scope="session")
def plugins(model, recorder) -> None:
    """SGLang's own loading of plugins and its configuration, in this process."""
    from sglang.srt.plugins import load_plugins
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import ServerArgs

    load_plugins()
    arguments = ServerArgs(model_path=str(model), **CPU)
    arguments.resolve_once()
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0, dp_rank=None, gpu_id=0))
