"""Two ranks, each with a shard of the head, and the processors that SGLang binds each to."""

import os

import pytest
import torch
from conftest import CPU, stop
from run import Run, rows, wrong
from safetensors.torch import load_file


@pytest.fixture
def engine(model, recorder, monkeypatch):
    import sglang

    one, *others = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", f"{one}|{others[0] if others else one}")
    engine = sglang.Engine(model_path=str(model), log_level="info", tp_size=2, disable_radix_cache=True, **CPU)
    yield engine
    stop(engine)


def test_two_ranks(engine, model):
    weight = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    params = {"temperature": 0.7, "max_new_tokens": 3}
    run = Run(engine, "In the beginning", params, top_logprobs_num=3, logprob_start_len=0)
    assert all(torch.equal(step["weight"], weight[: len(weight) // 2]) for step in run.heads)
    info = run.outputs[0]["meta_info"]
    steps = [(hidden, logits, weight) for hidden, logits, _ in rows(run.heads)]
    prompt = len(info["input_token_logprobs"]) - 1
    assert wrong(steps[:prompt], info["input_top_logprobs"][1:]) == []
    assert wrong(steps[prompt:], info["output_top_logprobs"], 0.7) == []
    assert run.wrong_logits(weight) == 0 and run.wrong_sampled() == []
