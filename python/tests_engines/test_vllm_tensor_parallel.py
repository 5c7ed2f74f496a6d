"""Two ranks that share the head's rows, in processes of their own, over gloo."""

import pytest
import torch
from recording import Recording
from test_vllm_draws import wrong
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

import isologit

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed"]


@pytest.fixture(scope="module")
def engine(start, untied_model):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        ranks = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
        yield start(untied_model, {"isologit": {"threads": 1, "draws": "contract"}}, **ranks)


@pytest.fixture
def recording(engine, tmp_path, whole_head):
    return Recording(engine, tmp_path, whole_head)


def test_each_rank_uses_the_processors_that_it_is_bound_to(engine):
    states = engine.collective_rpc("isologit_state")
    assert [state["processors"] for state in states] == [[0], [1]]
    assert all(state["on"] and state["threads"] == 1 for state in states)


def test_logprobs_are_those_of_one_rank(engine, recording):
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=5)
    with recording:
        outputs = engine.generate(PROMPTS, params, use_tqdm=False)
    assert recording.wrong(outputs) == []
    assert recording.wrong_logits(2) == 0


def test_draws(engine, recording):
    """Of each rank, from the gathered logits."""
    params = SamplingParams(max_tokens=6, temperature=1.0, top_p=0.9, seed=3, n=2)
    with recording:
        outputs = engine.generate(PROMPTS, params, use_tqdm=False)
    assert wrong(recording, outputs, params) == []


def test_a_batch_of_all_kinds(engine, recording):
    choice = StructuredOutputsParams(choice=["Moses", "Aaron"])
    kinds = [
        SamplingParams(max_tokens=9, temperature=0.9, top_p=0.8, min_p=0.02, seed=4, n=2, logprobs=3),
        SamplingParams(max_tokens=5, temperature=0, repetition_penalty=1.2, frequency_penalty=0.5, logprobs=2),
        SamplingParams(max_tokens=4, temperature=0, structured_outputs=choice, logprobs=3),
    ]
    with recording:
        outputs = engine.generate(PROMPTS, kinds, use_tqdm=False)
    assert recording.wrong(outputs[:2]) == []
    assert recording.wrong(outputs[2:], "given") == []
    assert max(len(step["requests"]) for step in recording.steps) > 2


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


def prompts_of(*counts):
    return [{"prompt_token_ids": [7 + i % 90 for i in range(count)]} for count in counts]


def test_prompt_logprobs_in_blocks_of_rows(engine, recording, whole_head):
    """In one batch, so that the second's rows begin further on; the first is one row longer than a block. Of rank 0 the
    logits are its own half's."""
    params = SamplingParams(max_tokens=2, temperature=0, prompt_logprobs=2)
    with recording:
        outputs = engine.generate(prompts_of(66, 200, 1), params, use_tqdm=False)
    sizes = [len(part["logits"]) for part in recording.prompts]
    assert sorted(sizes) == [1, 7, 64, 64, 64, 64]
    assert all(part["logits"].shape[1] == 2048 for part in recording.prompts)
    hidden = torch.cat([part["hidden"] for part in recording.prompts])
    whole = isologit.logits(hidden, whole_head)
    assert torch.equal(whole[:, :2048], torch.cat([part["logits"] for part in recording.prompts]))
    rows = iter(zip(hidden, whole, strict=True))
    for output in outputs:
        assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
        states = set()
        for token, returned in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
            state, logits = next(rows)
            states.add(tuple(state.tolist()))
            logprobs = isologit.log_softmax(logits)
            assert token in returned and returned[token].rank == int((logprobs >= logprobs[token]).sum())
            assert recording.wrong_of_row(state, logits, returned, True) == []
        assert len(states) == len(output.prompt_token_ids) - 1  # each row is a token's own
    assert next(rows, None) is None


@pytest.mark.parametrize("top", [0, 1, 20])
def test_prompt_logprobs_without_gathering_are_those_of_gathered_logits(engine, top):
    def told():
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=top)
        engine.reset_prefix_cache()
        outputs = engine.generate(prompts_of(66, 3, 130), params, use_tqdm=False)
        rows = [row for output in outputs for row in output.prompt_logprobs[1:]]
        return [{token: (one.logprob, one.rank) for token, one in row.items()} for row in rows]

    own = told()
    engine.collective_rpc("gather_prompts", args=(True,))
    try:
        gathered = told()
    finally:
        engine.collective_rpc("gather_prompts", args=(False,))
    assert len(own) == 65 + 2 + 129 and own == gathered
