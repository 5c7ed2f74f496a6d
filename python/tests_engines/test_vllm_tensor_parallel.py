"""Two ranks that share the head's rows, in processes of their own, over gloo."""

import pytest
from recording import Recording
from vllm import SamplingParams

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed"]


@pytest.fixture(scope="module")
def engine(start, untied_model):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        ranks = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
        yield start(untied_model, {"isologit": {"threads": 1}}, **ranks)


@pytest.fixture
def recording(engine, tmp_path):
    return Recording(engine, tmp_path)


def test_each_rank_uses_the_processors_that_it_is_bound_to(engine):
    states = engine.collective_rpc("isologit_state")
    assert [state["processors"] for state in states] == [[0], [1]]
    assert all(state["on"] and state["threads"] == 1 for state in states)


def test_logprobs_are_those_of_one_rank(engine, recording, whole_head):
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=5)
    with recording:
        outputs = engine.generate(PROMPTS, params, use_tqdm=False)
    recording.weight = whole_head
    assert recording.wrong(outputs) == []
    assert recording.wrong_logits(2) == 0


def test_weights_that_change_are_seen_by_the_next_token(engine, recording, whole_head):
    params = SamplingParams(max_tokens=2, temperature=0, logprobs=3)
    engine.collective_rpc("scale_head", args=(2.0,))
    try:
        with recording:
            outputs = engine.generate(PROMPTS, params, use_tqdm=False)
    finally:
        engine.collective_rpc("scale_head", args=(0.5,))
    recording.weight = whole_head * 2
    assert recording.wrong(outputs) == []


@pytest.fixture(scope="module")
def whole_head(untied_model):
    from safetensors.torch import load_file

    return load_file(untied_model / "model.safetensors")["lm_head.weight"]
