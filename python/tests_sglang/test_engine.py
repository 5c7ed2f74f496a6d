"""A whole engine: its scheduler in a process of its own, attention and norms in torch, the plugin found by its entry
point alone."""

import pytest
import torch
from conftest import CPU, stop
from run import Run, rows, wrong
from safetensors.torch import load_file

import isologit

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed"]


@pytest.fixture(scope="module")
def engine(model, recorder):
    import sglang

    engine = sglang.Engine(model_path=str(model), log_level="info", disable_radix_cache=True, **CPU)
    yield engine
    stop(engine)


def test_greedy(engine):
    run = Run(engine, PROMPTS[0], {"temperature": 0, "max_new_tokens": 5}, top_logprobs_num=4)
    (output,) = run.outputs
    info = output["meta_info"]
    assert output["output_ids"][:3] == [269, 259, 342]
    assert wrong(rows(run.heads), [[entry] for entry in info["output_token_logprobs"]]) == []
    assert wrong(rows(run.heads), info["output_top_logprobs"]) == []
    assert run.wrong_logits() == 0 and run.wrong_sampled() == []


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 7, "min_p": 0.05},
        {"temperature": 0.6, "sampling_seed": 7},
    ],
    ids=lambda params: ",".join(params),
)
def test_temperature(engine, params):
    run = Run(engine, PROMPTS[1], {"max_new_tokens": 4, **params}, top_logprobs_num=3, token_ids_logprob=[5, 4095])
    info = run.outputs[0]["meta_info"]
    steps, temperature = rows(run.heads), params["temperature"]
    assert wrong(steps, [[entry] for entry in info["output_token_logprobs"]], temperature) == []
    assert wrong(steps, info["output_top_logprobs"], temperature) == []
    assert wrong(steps, info["output_token_ids_logprobs"], temperature) == []
    assert run.wrong_sampled() == []


def test_penalties(engine):
    params = {"temperature": 0.8, "max_new_tokens": 8, "frequency_penalty": 1.5, "presence_penalty": 0.5}
    run = Run(engine, PROMPTS[0], params)
    assert run.wrong_sampled() == []
    assert any(not torch.equal(s["final"], h["logits"]) for s, h in zip(run.samplers, run.heads, strict=True))


def test_a_batch(engine):
    params = [{"temperature": t, "max_new_tokens": n} for t, n in ((0, 3), (0.5, 6), (1.2, 4))]
    run = Run(engine, PROMPTS, params)
    assert max(len(step["final"]) for step in run.samplers) > 1
    assert run.wrong_sampled() == [] and run.wrong_logits() == 0
    for step in run.heads:  # each row alone has the same bits
        for hidden, logits in zip(step["hidden"], step["logits"], strict=True):
            alone = isologit.logits(hidden[None], step["weight"])[0]
            assert torch.equal(alone.view(torch.int32), logits.view(torch.int32))


def test_logprobs_of_the_prompt(engine):
    run = Run(engine, PROMPTS[1], {"temperature": 0, "max_new_tokens": 1}, logprob_start_len=0, top_logprobs_num=3)
    info = run.outputs[0]["meta_info"]
    prompt = rows(run.heads)[:-1]
    assert len(prompt) > 4
    assert wrong(prompt, [[entry] for entry in info["input_token_logprobs"][1:]]) == []
    assert wrong(prompt, info["input_top_logprobs"][1:]) == []


def send(engine, name, weight):
    for answer in (
        engine.begin_weight_update(),
        engine.update_weights_from_tensor([(name, weight)]),
        engine.end_weight_update(),
    ):
        assert answer[0], answer


def test_weights_that_a_trainer_sends_are_seen_by_the_next_token(engine, model):
    name = "model.embed_tokens.weight"
    before = load_file(model / "model.safetensors")[name]
    other = before.flip(1) * 2
    send(engine, name, other)
    try:
        run = Run(engine, PROMPTS[0], {"temperature": 0, "max_new_tokens": 2})
        assert torch.equal(run.heads[0]["weight"], other)
        assert run.wrong_logits() == 0 and run.wrong_sampled() == []
    finally:
        send(engine, name, before)
