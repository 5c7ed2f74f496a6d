"""Weights that change in a running engine, by each of vLLM's ways that run on a CPU: the next token sees them."""

import shutil

import file_transfer
import pytest
from recording import Recording
from safetensors.torch import load_file, save_file
from vllm import SamplingParams
from vllm.config import WeightTransferConfig

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto"]


@pytest.fixture(scope="module")
def engine(start, untied_model):
    file_transfer.register()
    return start(untied_model, {"isologit": {}}, weight_transfer_config=WeightTransferConfig(backend="file"))


@pytest.fixture
def recording(engine, tmp_path):
    return Recording(engine, tmp_path)


@pytest.fixture
def trained(untied_model, tmp_path):
    """The model's folder with another head: what a trainer would hand over."""
    folder = tmp_path / "trained"
    shutil.copytree(untied_model, folder)
    tensors = load_file(untied_model / "model.safetensors")
    tensors["lm_head.weight"] = (1.5 * tensors["lm_head.weight"]).flip(0).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def expect_head(engine, recording, head):
    """Logits and returned logprobs are those of this head, [4091, H]."""
    engine.reset_prefix_cache()
    with recording:
        params = SamplingParams(max_tokens=2, temperature=0, logprobs=3)
        outputs = engine.generate(PROMPTS, params, use_tqdm=False)
    recording.weight = head
    assert recording.wrong(outputs) == []
    assert recording.wrong_logits() == 0


def head_of(folder):
    return load_file(folder / "model.safetensors")["lm_head.weight"]


def reload_weights(engine, folder):
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})


def load_weights(engine, folder):
    engine.collective_rpc("load_head_of", args=(str(folder / "model.safetensors"),))


def update_weights(engine, folder):
    engine.collective_rpc("init_weight_transfer_engine", args=({},))
    engine.collective_rpc("start_weight_update")
    engine.collective_rpc("update_weights", args=({"path": str(folder / "model.safetensors")},))
    engine.collective_rpc("finish_weight_update")


@pytest.mark.parametrize("update", [reload_weights, load_weights, update_weights], ids=lambda one: one.__name__)
def test_the_next_token_sees_new_weights(engine, recording, untied_model, trained, update):
    expect_head(engine, recording, head_of(untied_model))
    update(engine, trained)
    try:
        expect_head(engine, recording, head_of(trained))
    finally:
        update(engine, untied_model)
    expect_head(engine, recording, head_of(untied_model))


def test_rows_that_are_written_alone(engine, recording, untied_model):
    """As sparse updates are: some rows of the weight, in place."""
    head = head_of(untied_model)
    rows = [0, 17, 4090]
    engine.collective_rpc("negate_head_rows", args=(rows,))
    try:
        changed = head.clone()
        changed[rows] = -changed[rows]
        expect_head(engine, recording, changed)
    finally:
        engine.collective_rpc("negate_head_rows", args=(rows,))
    expect_head(engine, recording, head)


def test_sleep_and_wake(engine, recording, untied_model):
    """vLLM's CPU worker leaves its memory alone, and pauses only."""
    engine.sleep(level=1)
    engine.wake_up()
    expect_head(engine, recording, head_of(untied_model))


def test_a_head_that_is_not_seen_would_be_noticed(engine, recording, untied_model, trained):
    engine.collective_rpc("mutate", args=("cached weight",))
    load_weights(engine, trained)
    try:
        with pytest.raises(AssertionError):
            expect_head(engine, recording, head_of(trained))
    finally:
        engine.collective_rpc("repair")
        load_weights(engine, untied_model)
