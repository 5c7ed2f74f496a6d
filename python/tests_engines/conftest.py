"""A real vLLM engine on the CPU. The tests of one file share one engine, in the process of the tests where they can."""

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # vLLM compiles small helpers, which would take longer than the tests
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # the workers' too
sys.path.insert(0, str(HERE))

EXAMPLE = HERE.parents[1] / "examples" / "tiny-qwen3"


@pytest.fixture(scope="session")
def model() -> Path:
    return EXAMPLE


@pytest.fixture(scope="session")
def untied_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own, of 4091 rows, which vLLM pads to 4096."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("untied-qwen3")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    tensors = load_file(model / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = tensors[name][:4091].clone()
    tensors["lm_head.weight"] = tensors[name].flip(1).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "vocab_size": 4091}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def whole_head(untied_model: Path) -> Any:
    """[4091, 128], of which each of several ranks has a part."""
    from safetensors.torch import load_file

    return load_file(untied_model / "model.safetensors")["lm_head.weight"]


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    """Starts an engine; it is gone when the file's tests are done, or when the next is started."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    engines: list[Any] = []

    def stop() -> None:
        while engines:
            engines.pop().llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    def start(folder: Path, option: dict | None, **arguments: Any) -> Any:
        stop()
        gc.freeze()  # what is there still, until the next stop(): an engine that starts collects garbage many times
        common = {"enforce_eager": True, "max_model_len": 256, "dtype": "bfloat16", "seed": 0}
        common |= {"worker_extension_cls": "recorder.Recorder", "additional_config": option or {}}
        engines.append(LLM(str(folder), **common | arguments))
        return engines[0]

    yield start
    stop()


@pytest.fixture
def preempted_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[str]]:
    """preempted_in(engine) is a list to which the ids of requests come that the engine preempts."""

    def preempted_in(engine: Any) -> list[str]:
        scheduler = engine.llm_engine.engine_core.engine_core.scheduler
        preempt, preempted = scheduler._preempt_request, []

        def noted(request: Any, *args: Any, **kwargs: Any) -> Any:
            preempted.append(request.request_id)
            return preempt(request, *args, **kwargs)

        monkeypatch.setattr(scheduler, "_preempt_request", noted)
        return preempted

    return preempted_in
